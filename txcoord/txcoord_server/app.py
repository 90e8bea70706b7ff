"""The composition root: the only file that wires the coordinator together."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
from txcoord_proto.errors import ConfigurationError, StoreUnavailableError
from txcoord_proto.failpoints import announce

from txcoord_server.config import ServerConfig
from txcoord_server.engine.engine import Engine
from txcoord_server.engine.node import Node
from txcoord_server.engine.ports import SystemClock, SystemRng
from txcoord_server.engine.storage import Store
from txcoord_server.rpc.auth import Authenticator
from txcoord_server.rpc.server import Server
from txcoord_server.store.open import open_store

if TYPE_CHECKING:
    from txcoord_server.metrics import MetricsServer

log = logging.getLogger(__name__)

_TOKEN_REFRESH = 2.0
"""Seconds between two looks at the tokens: a change is promised to be known within five."""
_PATIENCE = 2.0
"""Seconds that the store gets at the end besides those of running calls."""


@contextmanager
def without_collection() -> Iterator[None]:
    """Hundreds of thousands of objects that stay are made here: looking for cycles among them is a waste, now and later."""
    gc.unfreeze()  # what was loaded for an epoch before goes
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()


async def _set_before(event: asyncio.Event, ended: asyncio.Future[None]) -> bool:
    """Wait until `event` is set or `ended` has ended; whether it is set."""
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait((waiting, ended), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return event.is_set()


def _give_up() -> None:
    """A thread hangs in a database that does not answer: what has been told is durable, so nothing is lost by ending."""
    log.error("the store does not answer: ending without it")
    os._exit(1)


class App:
    """A coordinator process from start to end.

    Args:
        config: What it is told.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self._writer = ThreadPoolExecutor(1, "txcoord-writer")
        self._reader = ThreadPoolExecutor(1, "txcoord-reader")
        self._authenticator = Authenticator(always=config.exposed)
        self._told_well: bool | None = None
        """What health checkers hear."""

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain.

        Raises:
            ConfigurationError: It may not listen like that.
        """
        announce()
        gc.set_threshold(50_000, 20, 100)  # the loop makes few cycles and many objects
        config = self.config
        store = open_store(
            config.store,
            config.engine.group,
            config.node,
            config.advertise or str(config.listen),
            config.engine.lease_ttl,
            self._writer,
            self._reader,
        )
        store.accepts_risks = config.unsafe_store
        node = Node(config.engine, store, config.node, SystemClock(), SystemRng(), without_collection)
        server = Server(node, self._authenticator, store.batch_cap, store.url)
        listening = replace(config.listen, port=server.listen(str(config.listen), self._credentials()))
        store.address = config.advertise or str(listening)
        metrics = self._metrics(node)
        self._stop_on_signals(node)
        running = asyncio.ensure_future(node.run())
        watching = [asyncio.ensure_future(w) for w in (self._watch_health(node, server), self._renew_tokens(node, store))]
        try:
            await server.start()  # health is answered from here on, everything else once the store has answered
            if await _set_before(node.started, running):
                await self._load_first_tokens(store, node)
                self._check_exposure()
            if await _set_before(node.placed, running):
                await self._tell_health(node, server)
                print(f"txcoord coordinator listening on {listening}", flush=True)
            await running
        finally:
            for task in watching:
                task.cancel()
            running.cancel()
            await server.stop(config.drain)
            await store.stop()
            if metrics is not None:
                metrics.close()

    # ------------------------------------------------------------ inside

    def _metrics(self, node: Node) -> MetricsServer | None:
        """The endpoint, where one is asked for; loading what it needs would cost every other start a twentieth of its time."""
        if self.config.metrics is None:
            return None
        from txcoord_server.metrics import MetricsServer  # noqa: PLC0415 - see above

        metrics = MetricsServer(node, self.config.metrics)
        log.info("metrics on %s", metrics.url)
        return metrics

    def _credentials(self) -> grpc.ServerCredentials | None:
        c = self.config
        if c.tls_certificate is None or c.tls_key is None:
            return None
        for path in (c.tls_certificate, c.tls_key, c.tls_client_ca):
            if path is not None and b"-----BEGIN " not in path.read_bytes():
                raise ConfigurationError(f"{path} is no PEM file: it must hold a certificate or key between BEGIN and END lines")
        pair = (c.tls_key.read_bytes(), c.tls_certificate.read_bytes())
        ca = c.tls_client_ca.read_bytes() if c.tls_client_ca is not None else None
        return grpc.ssl_server_credentials((pair,), ca, ca is not None)

    def _check_exposure(self) -> None:
        c = self.config
        if c.insecure and not c.listen.loopback:
            log.warning("listening on %s without insisting on TLS and tokens (--insecure)", c.listen.host)
        if c.exposed and (c.tls_certificate is None or not self._authenticator.has_tokens):
            raise ConfigurationError(
                f"listening on {c.listen.host} needs TLS (--tls-cert, --tls-key) and at least one token (`txcoord token add`), "
                "since whoever reaches the coordinator could decide others' transactions; --insecure turns this off"
            )

    def _stop_on_signals(self, node: Node) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            node.stop()
            loop.call_later(self.config.drain + _PATIENCE, _give_up)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)

    async def _load_tokens(self, store: Store) -> None:
        had = self._authenticator.has_tokens
        self._authenticator.load(await store.tokens())
        if had and self.config.exposed and not self._authenticator.has_tokens:
            log.error("the last token was dropped: nobody is let in until there is one again (`txcoord token add`)")

    async def _load_first_tokens(self, store: Store, node: Node) -> None:
        """Read the tokens; nobody is let in before."""
        while not node.stopping:
            try:
                return await self._load_tokens(store)
            except StoreUnavailableError as error:
                log.error("tokens cannot be read, nobody is let in: %s", error)
                await asyncio.sleep(1.0)

    def _end_strangers(self, engine: Engine) -> None:
        """Streams whose token was dropped, or that came without one before there were any."""
        for connection in [c for c in engine.connections if not self._authenticator.knows(c.principal)]:
            log.warning("the session of %s is ended: its token is no longer valid", connection.name)
            connection.close()

    async def _watch_health(self, node: Node, server: Server) -> None:
        """Keep health up to date."""
        while True:
            await self._tell_health(node, server)
            await asyncio.sleep(0.2)

    async def _tell_health(self, node: Node, server: Server) -> None:
        if (well := _well(node)) is not self._told_well:
            self._told_well = well
            await server.serving(well)

    async def _renew_tokens(self, node: Node, store: Store) -> None:
        """Keep tokens up to date; apart from health, since a database that stands still is waited for here."""
        while True:
            await asyncio.sleep(_TOKEN_REFRESH)
            if not self._authenticator.loaded:
                continue
            try:
                await self._load_tokens(store)
            except Exception as error:  # whatever it is, the next one may do better
                log.warning("tokens cannot be read, the known ones stay valid: %s", error)
            if node.engine is not None:
                self._end_strangers(node.engine)


def _well(node: Node) -> bool:
    """Whether the node leads and its store takes commits."""
    return node.engine is not None and not node.engine.trouble
