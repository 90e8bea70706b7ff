"""Generates the Python code of the wire, with the oldest supported grpcio-tools, in an environment of its own.

Code that a newer generator made would refuse older runtimes. usage: generate_proto.py [--check]
"""

from __future__ import annotations

import filecmp
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

GENERATOR = ("grpcio-tools==1.66.2", "protobuf==5.27.5", "setuptools<81")
ROOT = Path(__file__).parent.parent
PROTO = ROOT / "proto"
TOOLS = ROOT / "build" / "proto-tools"


def generator() -> Path:
    """The Python that has the generator; made on first use."""
    python = TOOLS / "bin" / "python"
    stamp = TOOLS / ".installed"
    if not stamp.exists() or stamp.read_text() != repr(GENERATOR):
        print("  installing the protobuf generator ...", flush=True)
        venv.create(TOOLS, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *GENERATOR], check=True)
        stamp.write_text(repr(GENERATOR))
    return python


def generate(target: Path) -> list[Path]:
    """Generate into `target`; returns the files, relative to it."""
    sources = sorted(PROTO.glob("txcoord_proto/v1/*.proto"))
    options = [f"--{kind}={target}" for kind in ("python_out", "pyi_out")]
    command: list[str | Path] = [generator(), "-W", "ignore", "-m", "grpc_tools.protoc", f"-I{PROTO}", *options, *sources]
    subprocess.run(command, check=True)
    return [path.relative_to(target) for path in sorted(target.glob("txcoord_proto/v1/*_pb2*.py*"))]


def main() -> None:
    """Generate, or say what is stale."""
    if "--check" not in sys.argv:
        generate(PROTO)
        return
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch)
        stale = [
            path
            for path in generate(target)
            if not (PROTO / path).exists() or not filecmp.cmp(target / path, PROTO / path, shallow=False)
        ]
    if stale:
        sys.exit(f"stale generated code, run `make proto`: {', '.join(map(str, stale))}")


if __name__ == "__main__":
    main()
