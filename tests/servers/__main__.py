"""`python -m tests.servers NAME... [--for COMMAND...]`: starts servers, prints `VARIABLE=URL` lines, ends them at the end.

With `--for` the command runs with these variables in its environment and its exit code is ours; without, the servers run until
Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from types import FrameType

from tests.servers.running import RECIPES, print_progress, running
from tests.servers.server import UnavailableError


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main(arguments: list[str]) -> int:
    """Start the servers, then run the command or wait.

    Returns:
        The command's exit code; 0 without one; 1 when a server cannot be had.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description="Starts real servers on free ports.")
    parser.add_argument("names", nargs="+", choices=[*RECIPES], metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument(
        "--for", metavar="COMMAND...", help="run a command with their addresses in its environment, end them after it"
    )
    words, command = arguments, []
    if "--for" in arguments:
        cut = arguments.index("--for")
        words, command = arguments[:cut], arguments[cut + 1 :]
        if not command:
            parser.error("--for needs a command")
    names = parser.parse_args(words).names
    signal.signal(signal.SIGTERM, _stop)
    addresses: dict[str, str] = {}
    try:
        with ExitStack() as stack:
            for name in dict.fromkeys(names):
                server = stack.enter_context(running(name))
                addresses[RECIPES[name].variable] = server.url
                print(f"{RECIPES[name].variable}={server.url}", flush=True)
            if command:
                return subprocess.run(command, env=os.environ | addresses, check=False).returncode
            print_progress("running until Ctrl-C")
            signal.pause()
    except UnavailableError as error:
        print_progress(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
