"""The client: one per process and coordinator. Making it opens nothing."""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from txcoord_proto import failpoints
from txcoord_proto.errors import ConfigurationError
from txcoord_proto.status import CommandResult, PhaseOne, Wait
from txcoord_proto.v1 import coordinator_pb2 as pb

from txcoord_sdk import context
from txcoord_sdk.config import ClientConfig, Tls, config_from
from txcoord_sdk.database import POOL_SIZE, Database, Databases
from txcoord_sdk.io_thread import IoThread
from txcoord_sdk.participant import BatchParticipant, Participant
from txcoord_sdk.runner import Runner
from txcoord_sdk.session.requests import Beginning, Registration, Sink
from txcoord_sdk.transaction.decorator import GlobalTransactionFactory
from txcoord_sdk.transaction.effects import Ask, Steps, adrive, drive
from txcoord_sdk.transaction.transaction import GlobalTransaction

log = logging.getLogger(__name__)

_NOT_STARTED_SECONDS = 5.0
_AT_EXIT_SECONDS = 2.0


class Client:
    """A service's access to the coordinator; see `connect`.

    It may be opened again after it has been closed.

    Args:
        config: What it is told.
    """

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.databases = Databases()
        self.global_transaction = GlobalTransactionFactory(lambda: self)
        self._runner = Runner(self, config.threads, self.databases.aclose)
        self._resources: dict[str, None] = {}
        self._io: IoThread | None = None
        self._on_start: list[Callable[[Client], None]] = []
        self._watched = False
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
    def started(self) -> bool:
        """Whether it talks to the coordinator, or tries to."""
        return self._io is not None

    @property
    def ended(self) -> bool:
        """Whether it has been closed."""
        return self._ended

    def start(self) -> Client:
        """Open the connection in the background; needed where a process serves resources before it asks anything itself.

        In a running event loop, asynchronous second phases run there from now on, for as long as it runs.

        Raises:
            ConfigurationError: This process cannot have one.
        """
        if asyncio._get_running_loop() is not None:
            self._runner.adopt_loop()
        self._ended = False
        self._thread()
        return self

    def close(self, patience: float = 5.0) -> None:
        """Finish what is under way and send what is queued, then end the background threads.

        Args:
            patience: Seconds that this may take.
        """
        until = self._stop(patience)
        while self._runner.busy and not self._runner.runs_here() and time.monotonic() < until:
            time.sleep(0.01)
        if (io := self._leave()) is not None:
            io.close(max(1.0, until - time.monotonic()))
        self._runner.join()
        self.databases.close()

    async def aclose(self, patience: float = 5.0) -> None:
        """Finish what is under way and send what is queued while this loop goes on, then end the background threads.

        Args:
            patience: Seconds that this may take; second phases that need longer are cancelled and come again.
        """
        until = self._stop(patience)
        while self._runner.busy and time.monotonic() < until:
            await asyncio.sleep(0.01)
        await self._runner.cancel_here()
        if (io := self._leave()) is not None:
            await asyncio.to_thread(io.close, max(1.0, until - time.monotonic()))
        await asyncio.to_thread(self._runner.join)
        await self.databases.aclose()
        self.databases.close()

    def _stop(self, patience: float) -> float:
        self._ended = True
        self._runner.stop()
        return time.monotonic() + patience

    def _leave(self) -> IoThread | None:
        with self._lock:
            io, self._io = self._io, None
        self._runner.close()
        return io

    def __enter__(self) -> Client:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Client:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def wait_connected(self, timeout: float = 10.0) -> bool:
        """Start, and wait until a coordinator has welcomed this process (blocks).

        Args:
            timeout: Seconds.
        """
        return self._thread().wait_connected(timeout)

    def _thread(self) -> IoThread:
        io = self._io
        if io is not None:
            return io
        if self._ended:
            raise ConfigurationError("the client is closed: `with client:` or client.start() opens it again")
        with self._lock:
            if (io := self._io) is not None:
                return io
            failpoints.announce()
            self._runner.restart()
            io = self._open_io()
            for resource in self._resources:
                io.post(io.session.serve, resource)
            self._io = io
            announce = [*self._on_start, *(_for_default if _default and _default[0] is self else ())]
        for callback in announce:
            callback(self)
        return io

    def _open_io(self) -> IoThread:
        """The thread that talks to the coordinator; the simulation has it in its one thread."""
        return IoThread(self.config, self._runner.take)

    def when_started(self, callback: Callable[[Client], None]) -> None:
        """Have `callback` called with this client whenever it starts, and now if it has."""
        self._on_start.append(callback)
        if self.started:
            callback(self)
        else:
            self._expect_start()

    def in_background(self, work: Callable[[], Any]) -> None:
        """Run a plain or coroutine function beside everything else, again and again until it succeeds."""
        self._runner.in_background(work)

    def when_prepared(self, database: Database, ready: Callable[[str], None]) -> None:
        """Have `ready` called with the identity of `database`, in the background, once it can be reached and has our tables."""

        async def aprepare() -> None:
            ready(await database.aprepare())

        def prepare() -> None:
            ready(database.prepare())

        self.in_background(aprepare if database.is_async else prepare)

    # ------------------------------------------------------------ forks

    def before_fork(self) -> None:
        """In the parent: gRPC has to be put down, or the child cannot use it."""
        self._has_forked = True
        if self._io is not None:
            self._io.pause()

    def after_fork_in_parent(self) -> None:
        """In the parent: go on."""
        if self._io is not None:
            self._io.resume()

    def after_fork_in_child(self) -> None:
        """In the child: its parent's threads are not here; it starts anew when it is used."""
        was_started, self._io = self.started, None
        self._lock = threading.Lock()
        self._watched = self._has_forked = False
        self._runner.forked()
        self.databases.forked()
        if not was_started and (self._resources or self._on_start):
            self._expect_start()

    # ------------------------------------------------------------ databases and resources

    def bind(self, engine: Engine | AsyncEngine, *, name: str = "", connections: int = POOL_SIZE) -> None:
        """Name the service's database: fences and second phases use it.

        Args:
            engine: SQLAlchemy Engine or AsyncEngine.
            name: For people, where there are several.
            connections: How many second phases have one at a time, besides the application's pool; a confirm or cancel that waits
                for something else holds one of them.

        Raises:
            ConfigurationError: The name is taken, or the engine does not fit; the text says why.
        """
        self.databases.bind(engine, name, connections)

    def serve(self, resource: str, participant: Participant | BatchParticipant) -> None:
        """Have `participant` do the second phases of `resource` in this process."""
        self._runner.serve(resource, participant)
        self._resources[resource] = None
        if (io := self._io) is not None:
            io.post(io.session.serve, resource)
        else:
            self._expect_start()

    def _expect_start(self) -> None:
        """Warn if the process serves something and forgets to start; a parent that forks leaves that to its children."""
        if self._watched:
            return
        self._watched = True
        pid = os.getpid()

        def look(client: weakref.ref[Client]) -> None:
            found = client()
            if found is not None and not (found.started or found.ended or found._has_forked) and pid == os.getpid():
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

    def joined_transaction(self, xid: str, timeout: float = math.inf) -> GlobalTransaction:
        """A transaction that another process decides, known by its XID; the carriers use it.

        Args:
            xid: It.
            timeout: Seconds that it has left; infinite: the coordinator tells with the first branch.
        """
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

    def branch_id(self, beginning: Beginning, sink: Sink) -> None:
        """Get an id for a branch that is registered later, and the XID."""
        io = self._thread()
        io.post(io.session.branch_id, beginning, sink)

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

    def query_locks(self, resource: str, keys: list[str], sink: Sink) -> None:
        """Ask whether rows are free of unfinished global transactions; the sink hears a `LockReply`."""
        io = self._thread()
        io.post(io.session.query_locks, resource, keys, sink)

    def settled(self, xids: list[str], sink: Sink) -> None:
        """Ask which transactions are settled; the sink hears a `SettledReply`."""
        io = self._thread()
        io.post(io.session.settled, xids, sink)

    def report(self, xid: str, branch_id: int, result: PhaseOne, error: str = "", rides: bool = False) -> None:
        """Report the end of a branch's phase one; kept until the coordinator has it. Dropped once the client is closed."""
        if (io := self._io) is not None:
            hand_over = io.leave if rides else io.post
            hand_over(io.session.report, xid, branch_id, PhaseOne(result), error)

    def done(self, xid: str, branch_id: int) -> None:
        """Answer a command: its second phase is done."""
        if (io := self._io) is not None:
            io.post(io.session.done, xid, branch_id)

    def failed(self, xid: str, branch_id: int, result: CommandResult, code: str, error: str) -> None:
        """Answer a command: its second phase did not succeed."""
        if (io := self._io) is not None:
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
        threads: For the synchronous second phases of each action without a database.

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


def _each(act: Callable[[Client], None]) -> Callable[[], None]:
    def do() -> None:
        for client in list(_clients):
            act(client)

    return do


def on_client(client: Client | None, callback: Callable[[Client], None]) -> None:
    """Have `callback` called when `client` starts; None: when a client starts that is the default one."""
    if client is not None:
        client.when_started(callback)
        return
    _for_default.append(callback)
    if _default and _default[0].started:
        callback(_default[0])


os.register_at_fork(
    before=_each(Client.before_fork),
    after_in_parent=_each(Client.after_fork_in_parent),
    after_in_child=_each(Client.after_fork_in_child),
)
atexit.register(_each(lambda client: client.close(_AT_EXIT_SECONDS) if client.started else None))

global_transaction = GlobalTransactionFactory(default_client)
"""Makes a function or block a global transaction of the default client; see `GlobalTransactionFactory.__call__`."""
