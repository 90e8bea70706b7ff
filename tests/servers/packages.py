"""Installs missing packages of the distribution, as root on Debian and its kin, and never lets a service start.

A package that brings a server would start it at once and at each boot. The first is forbidden through
`/usr/sbin/policy-rc.d` for as long as the installation runs, the second by disabling the service afterwards.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers.cache import locked
from tests.servers.recipe import Recipe, Requirement, Say
from tests.servers.server import UnavailableError

_POLICY = Path("/usr/sbin/policy-rc.d")
_KEPT = _POLICY.with_name("policy-rc.d.kept")
_DENY = "#!/bin/sh\n# Made by txcoord's tests while they install packages; may be deleted.\nexit 101\n"
_INSTALL = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600"]


def ensure_installed(recipe: Recipe, say: Say) -> None:
    """Install what a server needs and is not there.

    Raises:
        UnavailableError: It cannot be installed here; the text tells the one command that would.
    """
    missing = _missing(recipe)
    if not missing:
        return
    python = [each.package for each in missing if each.python]
    if python:
        raise UnavailableError(recipe.name, f"missing; run: pip install {' '.join(python)}")
    names = [each.package for each in missing]
    if shutil.which("apt-get") is None:
        raise UnavailableError(recipe.name, f"missing, and this is no Debian: install what its packages {', '.join(names)} bring")
    if os.geteuid() != 0:
        raise UnavailableError(recipe.name, f"missing; run: sudo apt-get install -y --no-install-recommends {' '.join(names)}")
    with locked("apt"), _no_service_starts():
        missing = _missing(recipe)
        if missing:
            _install(recipe.name, missing, say)
    still = [each.package for each in _missing(recipe)]
    if still:
        raise UnavailableError(recipe.name, f"{', '.join(still)} was installed but did not bring what was expected")


def _missing(recipe: Recipe) -> list[Requirement]:
    return [each for each in recipe.requires if not each.present()]


def _install(server: str, missing: Sequence[Requirement], say: Say) -> None:
    names = [each.package for each in missing]
    say(f"{server}: installing {', '.join(names)} with apt-get (no service is started) ...")
    started = time.monotonic()
    done = _apt([*_INSTALL, *names])
    if done.returncode:
        say(f"{server}: apt-get update ...")
        _apt(["apt-get", "update", "-q"])
        done = _apt([*_INSTALL, *names])
    if done.returncode:
        raise UnavailableError(server, f"apt-get install {' '.join(names)} failed:\n{(done.stdout + done.stderr)[-1500:]}")
    for each in missing:
        if each.service:
            subprocess.run(["update-rc.d", each.service, "disable"], capture_output=True, check=False)
    say(f"{server}: installed in {time.monotonic() - started:.0f} s")


def _apt(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Deny every start of a service; what the administrator had decided is back at the end, also after a killed run."""
    if _POLICY.exists() and _POLICY.read_text() != _DENY:
        _POLICY.rename(_KEPT)
    _POLICY.write_text(_DENY)
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
        if _KEPT.exists():
            _KEPT.rename(_POLICY)
