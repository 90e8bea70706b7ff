"""`make check`: every static check, all of them even when one fails."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
SOURCES = [d for d in ("proto", "txcoord", "sdk", "rm_agent", "examples", "tools", "tests") if next(Path(d).rglob("*.py"), None)]
CHECKS: dict[str, list[str | Path]] = {
    "format": [BIN / "ruff", "format", "--check", "-q", "."],
    "lint": [BIN / "ruff", "check", "-q", "."],
    "types": [BIN / "mypy", "--no-error-summary", *SOURCES],
    "imports": [BIN / "lint-imports"],
    "reference pages": [sys.executable, "tools/render_docs.py", "--check"],
    "generated code": [sys.executable, "tools/generate_proto.py", "--check"],
}


def main() -> None:
    """Run the checks; exit 1 when one fails."""
    failed = []
    for name, command in CHECKS.items():
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(f"  {name}: {'ok' if not done.returncode else 'FAILED'} ({time.monotonic() - started:.1f} s)", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stdout + done.stderr, flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
