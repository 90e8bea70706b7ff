"""`txcoord-agent serve` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SERVE = "from txcoord_rm.commands.serve import serve_command; serve_command()"


@contextmanager
def agent(address: str, url: str) -> Iterator[str]:
    """One that serves the database at `url`, named by the environment; the resource. It has to end well when it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, "--address", address, "--json"], env={**os.environ, "TXCOORD_DATABASE": url},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        yield json.loads(said)["resource"] if said else process.communicate()[1]
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=20)
        assert process.returncode == 0, complaints
        assert "Traceback" not in complaints, complaints
    finally:
        process.kill()
        process.communicate()
