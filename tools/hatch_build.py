"""Build hook of the wheel: the modules named in pyproject.toml, compiled by mypyc, where TXCOORD_COMPILE=1 asks for it.

A wheel holds the sources in any case; without compiled modules it does the same more slowly.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_COMPILE = """
import os, sys
from mypyc.build import mypycify
from setuptools import setup

modules = mypycify(
    ["--explicit-package-bases", "--ignore-missing-imports", *sys.argv[1:]],
    group_name="txcoord", multi_file=True, opt_level="2", debug_level="0",
)
setup(name="txcoord", ext_modules=modules, script_args=["-q", "build_ext", "--inplace", f"-j{os.cpu_count()}"])
"""


class CompileHook(BuildHookInterface[Any]):
    """Compiles what the option `modules` names, patterns relative to the project."""

    @property
    def _wanted(self) -> bool:
        return os.environ.get("TXCOORD_COMPILE") == "1"

    def dependencies(self) -> list[str]:
        """What the build needs beside hatchling."""
        return ["mypy[mypyc]", "types-protobuf", "typing-extensions"] if self._wanted else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and add the results to the wheel."""
        if not self._wanted or version == "editable":
            return
        stage = Path(self.root, "build", "mypyc")
        modules = self._copied(stage)
        command = [sys.executable, "-c", _COMPILE, *modules]
        done = subprocess.run(command, cwd=stage, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"mypyc cannot compile txcoord:\n{done.stdout}{done.stderr}")
        for made in stage.rglob("*.so"):
            place = made.relative_to(stage)
            if place.parts[0] != "build":
                build_data["force_include"][str(made)] = str(place)
        build_data |= {"pure_python": False, "infer_tag": True}

    def _copied(self, stage: Path) -> list[str]:
        """Lay the packages side by side, as a wheel does; returns the files to be compiled."""
        root = Path(self.root)
        shutil.rmtree(stage, ignore_errors=True)
        for package in map(Path, self.build_config.packages):
            shutil.copytree(root / package, stage / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        chosen = {path for pattern in self.config["modules"] for path in root.glob(pattern)}
        return sorted(str(Path(*path.relative_to(root).parts[1:])) for path in chosen)
