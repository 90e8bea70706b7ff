"""The process's one thread that talks to the coordinator, with an event loop of its own.

It starts when it is first needed and is made anew after a fork, whose child inherits objects but no threads. User code never runs
in it. gRPC does not survive a fork in the child, so before one it is put down here and taken up again afterwards in the parent;
what has not been answered is asked again then.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from txcoord_proto.errors import ConfigurationError

from txcoord_sdk.config import ClientConfig
from txcoord_sdk.mailbox import Mailbox
from txcoord_sdk.participant import Command
from txcoord_sdk.session.grpc_transport import GrpcTransport
from txcoord_sdk.session.session import Session

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 2.0
_LOOK_SECONDS = 0.5


class IoThread:
    """One run of the thread.

    Args:
        config: What the client is told.
        on_command: Called in this thread with each command of the second phase.

    Raises:
        ConfigurationError: Threads are not threads here, or the configuration cannot be used.
    """

    def __init__(self, config: ClientConfig, on_command: Callable[[Command], None]) -> None:
        refuse_green_threads()
        self.pid = os.getpid()
        self._config = config
        self._on_command = on_command
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._main, name="txcoord-io", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def _main(self) -> None:
        loop = asyncio.new_event_loop()
        try:
            self.mailbox = Mailbox(loop)
            self.session = loop.run_until_complete(self._make_session())
            self._running = loop.create_task(self.session.run())
            looking = loop.create_task(self._look())
        except BaseException as error:
            self._failure = error
            loop.close()
            return
        finally:
            self._ready.set()
        try:
            loop.run_until_complete(self._running)
        except asyncio.CancelledError:
            pass
        except Exception:
            log.exception("the thread that talks to the coordinator failed")
        finally:
            looking.cancel()
            loop.run_until_complete(self._end())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    async def _make_session(self) -> Session:
        chance = random.Random()  # noqa: S311 - jitter, not a secret
        return Session(self._config, GrpcTransport(self._config.tls), chance, self._on_command)

    async def _end(self) -> None:
        """Answer what came too late: nobody waits for ever."""
        self.session.close()
        self._ended = True
        self.mailbox.empty()

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """Run a method of the session in its thread."""
        self.mailbox.post(call, *args)
        if self._ended:
            # The session is closed and only refuses, so it does not matter any more in which thread that is.
            self.mailbox.empty()

    def leave(self, call: Callable[..., object], *args: Any) -> None:
        """Run a method of the session in its thread before the next one that is posted, within half a second."""
        self.mailbox.leave(call, *args)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.mailbox.empty()

    def wait_connected(self, timeout: float) -> bool:
        """Wait until the session is open.

        Args:
            timeout: Seconds.
        """
        waiting = asyncio.run_coroutine_threadsafe(self.session.connected.wait(), self.mailbox.loop)
        try:
            return waiting.result(timeout)
        except FutureTimeoutError:
            waiting.cancel()
            return False

    def pause(self) -> None:
        """Put gRPC down before a fork; returns when no thread of its is left."""
        if self._ended or threading.current_thread() is self._thread:
            return
        try:
            asyncio.run_coroutine_threadsafe(self.session.link.pause(), self.mailbox.loop).result(_PAUSE_SECONDS)
        except FutureTimeoutError:
            log.warning("the connection to the coordinator could not be put down before a fork: the child may not get one")
        gc.collect()  # gRPC's threads end with its last object

    def resume(self) -> None:
        """Take gRPC up again in the parent."""
        self.mailbox.post(self.session.link.resume)

    def close(self, patience: float) -> None:
        """Send what is queued, then end.

        Args:
            patience: Seconds that this may take.
        """
        if self.pid != os.getpid() or self._ended:
            return
        asyncio.run_coroutine_threadsafe(self._drain(patience), self.mailbox.loop)
        self._thread.join(patience + 1)

    async def _drain(self, patience: float) -> None:
        self.mailbox.empty()
        until = asyncio.get_running_loop().time() + patience
        while not self.session.idle and self.session.connected.is_set() and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)
        self._running.cancel()


def refuse_green_threads() -> None:
    """Refuse gevent's and eventlet's patched threads.

    Raises:
        ConfigurationError: The standard library's threads have been replaced.
    """
    gevent = sys.modules.get("gevent.monkey")
    eventlet = sys.modules.get("eventlet.patcher")
    patched = (gevent is not None and gevent.is_module_patched("threading")) or (
        eventlet is not None and eventlet.is_monkey_patched("thread")
    )
    if patched:
        raise ConfigurationError(
            "txcoord does not run under gevent or eventlet: their green threads cannot share a process with gRPC's event loop "
            "and would stop it; use threads or asyncio workers (for gunicorn: gthread or uvicorn workers)"
        )
