"""A coordinator of the bench's own, as a child process that ends with it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from txcoord_proto.errors import StoreError

# The child reads its standard input, which ends when the bench does, however that ends.
_CHILD = """
import os, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(3)), daemon=True).start()
from txcoord_server.cli import main
main()
"""


@contextmanager
def coordinator(store: str, group: str) -> Iterator[str]:
    """Run a coordinator with its defaults on a free port; gives its address.

    Args:
        store: SQLAlchemy URL.
        group: Of its own, so that it stands in nobody's way.

    Raises:
        StoreError: It did not start; its log is in the text.
    """
    command = [sys.executable, "-c", _CHILD, "serve", "--store", store, "--port", "0", "--group", group, "--log-level", "warning"]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(  # noqa: S603 - this very program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout is not None
        line = next((line for line in process.stdout if " listening on " in line), None)
        if line is None:
            log.seek(0)
            raise StoreError(f"the coordinator did not start:\n{log.read()}")
        try:
            yield line.split()[-1]
        finally:
            process.terminate()
            process.wait(30)
