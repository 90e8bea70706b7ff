"""Makes the wheel as users get it, compiled, and unpacks it: on PYTHONPATH it stands before the sources.

usage: make_compiled.py DIRECTORY

Without a C compiler or Python's headers the directory stays empty: everything runs on the sources then, and says so.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from make_venv import run


def missing() -> str:
    """What the compilation lacks here; empty: nothing."""
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's headers (the distribution's package python3-dev or python3-devel)"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    return "" if shutil.which(compiler) else f"a C compiler ({compiler})"


def main(directory: Path) -> None:
    """Make it anew."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    if lacking := missing():
        print(f"nothing is compiled, the coordinator is slower: there is no {lacking}", flush=True)
        return
    print(f"compiling the coordinator into {directory}", flush=True)
    os.environ["TXCOORD_COMPILE"] = "1"
    with tempfile.TemporaryDirectory() as made:
        run("wheel (a minute or two)", sys.executable, "-m", "build", "-w", "-n", "-o", made, ".")
        (wheel,) = Path(made).glob("*.whl")
        shutil.unpack_archive(wheel, directory, "zip")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
