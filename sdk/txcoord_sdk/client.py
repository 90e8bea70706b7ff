"""The client: one per process and coordinator. Making it opens nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

from txcoord_proto.errors import ConfigurationError
from txcoord_proto.status import CommandResult, PhaseOne, Wait
from txcoord_proto.v1 import coordinator_pb2 as pb

from txcoord_sdk import context
from txcoord_sdk.config import ClientConfig, Tls, config_from
from txcoord_sdk.database import Databases
from txcoord_sdk.io_thread import IoThread
from txcoord_sdk.participant import Participant
from txcoord_sdk.runner import Runner
from txcoord_sdk.session.requests import Beginning, Registration, Sink
from txcoord_sdk.transaction.decorator import GlobalTransactionFactory
from txcoord_sdk.transaction.effects import Ask, Steps, adrive, drive
from txcoord_sdk.transaction.transaction import GlobalTransaction

log = logging.getLogger(__name__)

_NOT_STARTED_SECONDS = 5.0


class Client:
    """A service's access to the coordinator; see `connect`.

    Args:
        config: What it is told.
    """

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.databases = Databases()
        self.global_transaction = GlobalTransactionFactory(lambda: self)
        self._runner = Runner(self, config.threads)
        self._resources: dict[str, None] = {}
        self._io: IoThread | None = None
        self._on_start: list[Callable[[Client], None]] = []
        self._has_forked = False
        self._ended = False
        self._lock = threading.Lock()
        _clients.add(self)

    @property
    def service(self) -> str:
        """Name of this service."""
        return self.config.service

    # ------------------------------------------------------------ life

    @property
    def ended(self) -> bool:
        """Whether it has been closed."""
        return self._ended

    def start(self) -> Client:
        """Open the connection in the background; needed where a process serves resources before it asks anything itself."""
        self._thread()
        return self

    def close(self) -> None:
        """Send what is queued, then end the background threads."""
        self._ended = True
        with self._lock:
            io, self._io = self._io, None
        self._runner.close()
        if io is not None:
            io.close()
        self.databases.close()

    def __enter__(self) -> Client:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Client:
        self._runner.adopt_loop()
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Send what is queued while this loop goes on, then end the background threads."""
        self._ended = True
        with self._lock:
            io, self._io = self._io, None
        if io is not None:
            await asyncio.get_running_loop().run_in_executor(None, io.close)
        self._runner.close()
        await self.databases.aclose()
        self.databases.close()

    def adopt_loop(self) -> None:
        """Run asynchronous second phases in the event loop that runs now (the ASGI middleware does this)."""
        self._runner.adopt_loop()

    def wait_connected(self, timeout: float = 10.0) -> bool:
        """Start, and wait until a coordinator has welcomed this process.

        Args:
            timeout: Seconds.
        """
        return self._thread().wait_connected(timeout)

    def _thread(self) -> IoThread:
        io = self._io
        if io is not None and io.pid == os.getpid():
            return io
        with self._lock:
            if self._io is None or self._io.pid != os.getpid():
                self._io = io = IoThread(self.config, self._runner.take)
                for resource in self._resources:
                    io.post(io.session.serve, resource)
                announce = [*self._on_start, *(_for_default if _default and _default[0] is self else ())]
            else:
                announce = []
            io = self._io
        for callback in announce:
            callback(self)
        return io

    def when_started(self, callback: Callable[[Client], None]) -> None:
        """Have `callback` called with this client when it starts, now if it has."""
        self._on_start.append(callback)
        if self._started:
            callback(self)
        elif len(self._on_start) == 1:
            self._warn_unless_started()

    @property
    def _started(self) -> bool:
        return self._io is not None and self._io.pid == os.getpid()

    def in_background(self, work: Callable[[], Any]) -> None:
        """Run a plain or coroutine function beside everything else, again and again until it succeeds."""
        self._runner.in_background(work)

    def _forked(self) -> None:
        """In the child of a fork: its parent's threads are not here."""
        self._lock = threading.Lock()
        self._io = None
        self._runner.forked()

    # ------------------------------------------------------------ databases and resources

    def bind(self, engine: Any, *, name: str = "") -> None:
        """Name the service's database: fences and second phases use it.

        Args:
            engine: SQLAlchemy Engine or AsyncEngine.
            name: For people, where there are several.
        """
        self.databases.bind(engine, name)

    def serve(self, resource: str, participant: Participant) -> None:
        """Have `participant` do the second phases of `resource` in this process."""
        self._runner.serve(resource, participant)
        self._resources[resource] = None
        io = self._io
        if io is not None and self._started:
            io.post(io.session.serve, resource)
        elif len(self._resources) == 1:
            self._warn_unless_started()

    def _warn_unless_started(self) -> None:
        pid = os.getpid()

        def look(client: weakref.ref[Client]) -> None:
            found = client()
            if found is not None and not (found._started or found._ended or found._has_forked) and pid == os.getpid():
                log.warning(
                    "service %s registered actions and has not connected: second phases that it is to do wait; use `with "
                    "client:`, client.start() or the ASGI middleware when the process starts",
                    found.service,
                )

        timer = threading.Timer(_NOT_STARTED_SECONDS, look, (weakref.ref(self),))
        timer.daemon = True
        timer.start()

    # ------------------------------------------------------------ transactions

    def new_transaction(self, name: str, timeout: float, key: str, first_begun_at: int) -> GlobalTransaction:
        """A transaction that this process decides; service code uses `global_transaction`."""
        beginning = Beginning(name[:128], int(timeout * 1000), key, context.traceparent.get(), first_begun_at)
        return GlobalTransaction(self, beginning, True, timeout)

    def joined_transaction(self, xid: str, timeout: float = 24 * 3600.0) -> GlobalTransaction:
        """A transaction that another process decides, known by its XID; the carriers use it."""
        beginning = Beginning("joined", 0)
        beginning.xid = xid
        return GlobalTransaction(self, beginning, False, timeout)

    def status(self, xid: str = "", *, key: str = "") -> pb.Transaction:
        """A transaction with its explanation, by XID or by business key (blocks).

        Raises:
            UnknownXidError: There is none; it was rolled back or never had a branch.
            ExpiredXidError: It finished long ago.
        """
        return drive(self._status_steps(xid, key))

    async def astatus(self, xid: str = "", *, key: str = "") -> pb.Transaction:
        """A transaction with its explanation, by XID or by business key. Raises like `status`."""
        return await adrive(self._status_steps(xid, key))

    def _status_steps(self, xid: str, key: str) -> Steps[pb.Transaction]:
        io = self._thread()
        answer = yield Ask(lambda sink: io.post(io.session.status, xid, key, sink))
        assert isinstance(answer, pb.Transaction)
        return answer

    # ------------------------------------------------------------ requests, from any thread

    def begin(self, beginning: Beginning, sink: Sink) -> None:
        """Get an XID."""
        io = self._thread()
        io.post(io.session.begin, beginning, sink)

    def register(self, beginning: Beginning, registration: Registration, sink: Sink) -> None:
        """Register a branch."""
        io = self._thread()
        io.post(io.session.register, beginning, registration, sink)

    def commit(self, xid: str, wait: Wait, sink: Sink) -> None:
        """Ask for commit."""
        io = self._thread()
        io.post(io.session.commit, xid, wait, sink)

    def rollback(self, xid: str, wait: Wait, reason: str, sink: Sink) -> None:
        """Ask for rollback."""
        io = self._thread()
        io.post(io.session.rollback, xid, wait, reason, sink)

    def rollback_only(self, xid: str, reason: str, sink: Sink) -> None:
        """Veto."""
        io = self._thread()
        io.post(io.session.rollback_only, xid, reason, sink)

    def settled(self, xids: list[str], sink: Sink) -> None:
        """Ask which transactions are settled; the sink hears a `SettledReply`."""
        io = self._thread()
        io.post(io.session.settled, xids, sink)

    def report(self, xid: str, branch_id: int, result: PhaseOne, error: str = "") -> None:
        """Report the end of a branch's phase one; kept until the coordinator has it."""
        io = self._thread()
        io.post(io.session.report, xid, branch_id, result, error)

    def done(self, xid: str, branch_id: int) -> None:
        """Answer a command: its second phase is done."""
        io = self._thread()
        io.post(io.session.done, xid, branch_id)

    def failed(self, xid: str, branch_id: int, result: CommandResult, code: str, error: str) -> None:
        """Answer a command: its second phase did not succeed."""
        io = self._thread()
        io.post(io.session.failed, xid, branch_id, result, code, error)


_clients: weakref.WeakSet[Client] = weakref.WeakSet()
_default: list[Client] = []
_for_default: list[Callable[[Client], None]] = []


def connect(
    address: str | None = None,
    *,
    service: str | None = None,
    token: str | None = None,
    tls: Tls | None = None,
    failover_wait: float = 30.0,
    threads: int = 16,
) -> Client:
    """A client of the coordinator; opens nothing yet. The last one made is the default of `global_transaction` and `tcc`.

    Args:
        address: `host:port`, several separated by commas; else TXCOORD_ADDRESS; else 127.0.0.1:8190.
        service: Name of this service; else TXCOORD_SERVICE.
        token: Proves that; else TXCOORD_TOKEN.
        tls: TLS; else TXCOORD_TLS_CA and the like.
        failover_wait: Seconds that requests wait for a coordinator that does not answer.
        threads: For synchronous second phases.

    Raises:
        ConfigurationError: The name of the service is missing, or an address is not one.
    """
    client = Client(config_from(address, service, token, tls, failover_wait, threads))
    _default[:] = [client]
    return client


def default_client() -> Client:
    """The client that `connect` made last.

    Raises:
        ConfigurationError: There is none.
    """
    if not _default:
        raise ConfigurationError("there is no client yet: call txcoord_sdk.connect(...) at the start of the process")
    return _default[0]


def _after_fork() -> None:
    for client in _clients:
        client._forked()


def _before_fork() -> None:
    for client in _clients:
        client._has_forked = True


def on_client(client: Client | None, callback: Callable[[Client], None]) -> None:
    """Have `callback` called when `client` starts; None: when a client starts that is the default one."""
    if client is not None:
        client.when_started(callback)
        return
    _for_default.append(callback)
    if _default and _default[0]._started:
        callback(_default[0])


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)

global_transaction = GlobalTransactionFactory(default_client)
"""Makes a function or block a global transaction of the default client; see `GlobalTransactionFactory.__call__`."""
