"""The code of one page of the documentation, written into a directory and run there, as a reader would do it.

A Python block with a title, ```python title="stock.py", is a file; blocks of one title are parts of one file. Those without are
the page's own module, `page.py`. Bash blocks run in one shell, in their order; a text block after one says what it prints. A
block that no test runs is an error; one that cannot be run by itself says so, ```python fragment.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from txcoord_sdk.testing import wait_until

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?( fragment)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_MARK = "@@ block "


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    language: str
    title: str
    text: str
    is_fragment: bool = False


def blocks_of(path: Path) -> list[Block]:
    """The blocks of a page."""
    found = _BLOCK.findall(path.read_text())
    return [Block(language, title, text, bool(fragment)) for language, title, fragment, text in found]


class Page:
    """See the module.

    Args:
        name: Of the page, from `docs/` on.
        directory: Where its files go and its code runs.
        replacements: Addresses and the like that differ in a test, by what the page says.
        environment: Further environment variables.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        replacements: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.environment = {**os.environ, "PYTHONPATH": str(directory), **(environment or {})}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        blocks = [block for block in blocks_of(DOCS / name) if not block.is_fragment]
        self._blocks = [self._replaced(block, replacements or {}) for block in blocks]
        self._files: dict[str, str] = {}
        self._shell_is_due = any(block.language == "bash" for block in self._blocks)
        for block in self._blocks:
            if block.language == "python":
                title = block.title or "page.py"
                self._files[title] = self._files[title] + "\n\n" + block.text if title in self._files else block.text
        for title, text in self._files.items():
            (directory / title).parent.mkdir(parents=True, exist_ok=True)
            (directory / title).write_text(text)

    @staticmethod
    def _replaced(block: Block, replacements: Mapping[str, str]) -> Block:
        text = block.text
        for old, new in replacements.items():
            text = text.replace(old, new)
        return Block(block.language, block.title, text)

    def run(self, script: str, *command: str, timeout: float = 60) -> str:
        """Run a Python script beside the page's files; gives what it printed.

        Args:
            script: It; it may import them.
            command: Instead of `python -c SCRIPT`: a module and its arguments.
            timeout: Seconds.
        """
        arguments = [sys.executable, "-m", *command] if command else [sys.executable, "-c", script]
        done = subprocess.run(
            arguments, cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def process(self, *command: str, ready: str = "") -> Iterator[subprocess.Popen[bytes]]:
        """Run a module in the background until the block ends.

        Args:
            command: The module and its arguments.
            ready: What it logs when it has started.
        """
        log = self.directory / f"{len(list(self.directory.glob('*.log')))}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=self.directory, env=self.environment, stdout=out, stderr=out
            )
        try:

            def has_started() -> bool:
                assert process.poll() is None, log.read_text()
                return ready in log.read_text()

            wait_until(has_started, 30, f"{ready!r} of {command}")
            yield process
        except BaseException:
            print(log.read_text())
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)

    def shell(self, timeout: float = 120) -> list[str]:
        """Run the bash blocks, and compare what they print with the text blocks after them; gives what each printed."""
        self._shell_is_due = False
        script, number = ["set -eu"], 0
        for block in self._blocks:
            if block.language == "bash":
                script += [f"echo '{_MARK}{number}'", block.text]
                number += 1
        (self.directory / "blocks.sh").write_text("\n".join(script))
        printing, complaining = self.directory / "blocks.out", self.directory / "blocks.log"
        with printing.open("wb") as out, complaining.open("wb") as err:
            process = subprocess.Popen(
                ["bash", "blocks.sh"], cwd=self.directory, env=self.environment, stdout=out, stderr=err, start_new_session=True
            )
        try:
            code = process.wait(timeout)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it left in the background
            process.wait()
        text = printing.read_text()
        logs = "".join(f"\n{log.name}:\n{log.read_text()}" for log in self.directory.rglob("*.log"))
        assert code == 0, text + logs
        printed = [part.partition("\n")[2] for part in text.split(_MARK)[1:]]
        number = -1
        for block in self._blocks:
            number += block.language == "bash"
            if block.language == "text" and number >= 0:
                assert printed[number].strip() == block.text.strip(), text + logs
        return printed

    def check_everything_ran(self) -> None:
        """Refuse files that nothing imported, which Python's cache tells, and shell commands that were left out."""
        compiled = [path for path in self.directory.rglob("__pycache__/*.pyc") if ".venv" not in path.parts]
        cached = {path.name.split(".cpython")[0] for path in compiled}
        assert {name for name in self._files if Path(name).stem not in cached} == set()
        assert not self._shell_is_due
