"""The simulated services: in each process the real client of the SDK, and the code that a user would write.

Real are `Client`, session, runner, `@tcc` with both phases, fence, retention and enlistment, `@global_transaction` with retries
and hooks, and the middleware that takes XIDs from calls. What the SDK does in threads is done elsewhere: the session runs in the
process's one loop, behind the same mailbox; fence rows are cleaned by a task, with a short period; local transactions end at
their deadline by a timer. Synchronous participants, which run in a pool, are not here at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any, cast

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from txcoord_proto.errors import TxcoordError
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_rm import enroll
from txcoord_rm.at.participant import UNDO_LOG
from txcoord_sdk.carriers.asgi import TransactionMiddleware
from txcoord_sdk.carriers.outgoing import OutgoingCall
from txcoord_sdk.client import Client
from txcoord_sdk.config import ClientConfig
from txcoord_sdk.context import current
from txcoord_sdk.database import Database
from txcoord_sdk.io_thread import IoThread
from txcoord_sdk.mailbox import Mailbox
from txcoord_sdk.participant import ParkError, UnavailableError
from txcoord_sdk.session.session import Session
from txcoord_sdk.tcc import cleaning
from txcoord_sdk.tcc.decorator import tcc
from txcoord_sdk.transaction.options import Hooks
from txcoord_sdk.transaction.transaction import GlobalTransaction

from tests.simulation.business import ROWS, Rows, effect, this_branch
from tests.simulation.database import Access, Disk
from tests.simulation.loop import Process
from tests.simulation.network import SimTransport
from tests.simulation.scene import Scene

NODES = ("c0:1", "c1:1")
FENCE_RETENTION = 4.0


class SessionHere:
    """The client's session in this process's one loop, behind the mailbox through which a thread would be reached."""

    def __init__(self, session: Session) -> None:
        self.session = session
        mailbox = Mailbox(asyncio.get_running_loop())
        self.post, self.leave = mailbox.post, mailbox.leave


class SimClient(Client):
    """The client, without a thread for its session.

    Args:
        scene: Whose network and chance.
        config: What it is told.
    """

    def __init__(self, scene: Scene, config: ClientConfig) -> None:
        super().__init__(config)
        self._scene = scene

    def _open_io(self) -> IoThread:
        transport = SimTransport(self._scene.network, self.config.instance)
        session = Session(self.config, transport, self._scene.loop.rng, self._runner.take)
        return cast(IoThread, SessionHere(session))


class Service:
    """A process with a client.

    Args:
        scene: Where it runs.
        name: Of the service; several processes may be of one.
        instance: Of the process.
    """

    def __init__(self, scene: Scene, name: str, instance: str) -> None:
        self.scene = scene
        self.name = name
        self.instance = instance
        self.client: SimClient | None = None
        self.process = Process(scene.loop, instance, self.main, self.died)

    @property
    def session(self) -> Session | None:
        """Of its present start."""
        return self.client._thread().session if self.client is not None else None

    async def main(self) -> None:
        config = ClientConfig(self.name, NODES, failover_wait=20.0, instance=self.instance)
        self.client = client = SimClient(self.scene, config)
        self.scene.loop.frozen.append(client)
        client.start()
        self.prepare(client)
        await client._thread().session.run()

    def prepare(self, client: SimClient) -> None:
        """What comes before the session runs."""

    def died(self) -> None:
        self.scene.network.died(self.instance)
        if self.client is not None:
            self.client._io = None
            self.client = None


class Participant(Service):
    """A service with a database: a TCC action, and rows under global locks."""

    def __init__(self, scene: Scene, name: str, instance: str, disk: Disk) -> None:
        super().__init__(scene, name, instance)
        self.disk = disk
        self.access: Access | None = None
        self._app: TransactionMiddleware | None = None
        self._reserve: Any = None
        self._rows = Rows(scene.loop.rng, scene.lines)

    def prepare(self, client: SimClient) -> None:
        self.access = Access(self.disk)
        client.bind(self.access.engine)
        database = client.databases.get()
        # They are cleaned below, more often than by the SDK's own timer thread.
        cleaning._kept[database] = dict.fromkeys(("txcoord_fence", "txcoord_undo_log"), os.getpid())
        enroll(self.access.engine, client, lock_wait=self.scene.loop.rng.choice([0.0, 1.0, 3.0]))
        database.fence_retention = FENCE_RETENTION
        database._id = self.name  # its tables are there: looking for them at each start would take a tenth of all time
        self._reserve = self._actions(client)
        self._app = TransactionMiddleware(self._serve, client)
        loop = asyncio.get_running_loop()
        self.scene.loop.keep(loop.create_task(self._clean(client, database)))

    def died(self) -> None:
        super().died()
        if self.access is not None:
            self.access.lose()

    # ------------------------------------------------------------ what a user would write

    def _actions(self, client: Client) -> Any:
        @tcc("reserve", client=client)
        async def reserve(connection: AsyncConnection, number: int, fails: bool) -> None:
            await effect(connection, "try", reserved=1)
            if fails:
                raise ValueError("no stock")

        @reserve.confirm
        async def confirm(connection: AsyncConnection, number: int) -> None:
            await effect(connection, "confirm", reserved=-1, sold=1)
            self.stumble(this_branch().xid)

        @reserve.cancel
        async def cancel(connection: AsyncConnection, number: int) -> None:
            await effect(connection, "cancel", reserved=-1)
            self.stumble(this_branch().xid)

        return reserve

    def stumble(self, xid: str) -> None:
        """A second phase that fails by itself, now and then."""
        if not self.scene.bad or (chance := self.scene.loop.rng.random()) >= 0.06:
            return
        if chance < 0.01:
            self.scene.witness.may_park.add(xid)
            raise ParkError("a person has to look")
        raise UnavailableError("cannot be reached") if chance < 0.03 else ValueError("a hiccup")

    async def _clean(self, client: Client, database: Database) -> None:
        while True:
            await asyncio.sleep(self.scene.loop.rng.expovariate(0.25))
            try:
                self.scene.cleaned += await cleaning.apurge(client, database)
                self.scene.cleaned += await cleaning.apurge(client, database, UNDO_LOG)
            except (TxcoordError, DBAPIError):
                continue  # another time, as the client's runner would

    # ------------------------------------------------------------ calls from other services

    async def call(self, headers: dict[str, str], what: dict[str, Any]) -> int:
        """Serve a call as an HTTP server does; gives the answer's status."""
        fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": fields, "client": ("10.0.0.1", 1), "what": what}
        status = 500

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        if self._app is None:
            return 503
        try:
            await self._app(scope, receive, send)
        except Exception:
            return 500  # as the server around the application answers
        return status

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        what, rng, transaction = scope["what"], self.scene.loop.rng, current()
        assert transaction is not None
        assert self.access is not None
        status = 200
        try:
            if what["kind"] == "reserve":
                await self._try(what["number"], what["fails"])
            else:
                await self._rows.change(self.access.engine, transaction.known_xid, what["number"], what["items"])
        except ValueError:
            status = 409
        if status == 200 and rng.random() < 0.03:
            transaction.set_rollback_only("on second thoughts")
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def _try(self, number: int, fails: bool) -> None:
        """The action, in a local transaction of the SDK's or in one of the service's own."""
        assert self.access is not None
        if self.scene.loop.rng.random() < 0.5:
            await self._reserve(number, fails)
            return
        async with self.access.engine.begin() as connection:
            await self._reserve(connection, number, fails)


class Initiator(Service):
    """A service that begins transactions, calls participants and decides.

    Args:
        scene: Where it runs.
        name: Of the service.
        instance: Of the process.
        participants: Processes by service.
    """

    def __init__(self, scene: Scene, name: str, instance: str, participants: dict[str, list[Participant]]) -> None:
        super().__init__(scene, name, instance)
        self._participants = participants

    def prepare(self, client: SimClient) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(self.scene.profile.workers):
            self.scene.loop.keep(loop.create_task(self._work(client)))
        self.scene.loop.keep(loop.create_task(self._ask()))

    async def _ask(self) -> None:
        """Ask about locks that are held, again and again."""
        scene = self.scene
        while scene.bad:
            await asyncio.sleep(scene.loop.rng.expovariate(3))
            held = scene.witness.held()
            if held and self.session is not None:
                self._ask_about(self.session, scene.loop.rng.choice(held), scene.loop.time())

    def _ask_about(self, session: Session, lock: tuple[str, str], asked: float) -> None:
        request = session._request()
        request.lock_query.resource, key = lock
        request.lock_query.lock_keys.append(key)

        def answered(reply: object, error: BaseException | None) -> None:
            if isinstance(reply, pb.LockReply) and reply.free:
                self.scene.witness.told_free(lock, asked)

        session._ask(request, answered)

    async def _work(self, client: Client) -> None:
        loop = self.scene.loop
        while self.scene.bad:
            await self._order(client)
            await asyncio.sleep(loop.rng.expovariate(4))

    async def _order(self, client: Client) -> None:
        """One business transaction over one to three calls."""
        scene, rng = self.scene, self.scene.loop.rng
        scene.transactions += 1
        number, timeout = scene.transactions, rng.uniform(2, 6)
        agreed: dict[str, list[str]] = {}
        calls = [self._call(number) for _ in range(rng.choice([1, 2, 2, 3]))]

        async def order() -> None:
            transaction = current()
            assert transaction is not None
            said_yes = agreed.setdefault(await transaction.axid(), [])
            for service, what in calls:
                if await self._request(service, what):
                    said_yes.append(service if what["kind"] == "reserve" else f"{service}:{number}")
            if rng.random() < 0.2:
                await asyncio.sleep(rng.uniform(0.3, 2.0))  # a person thinks, and locks are held meanwhile
            if rng.random() < 0.1:
                raise ValueError("changed my mind")

        hooks = Hooks(
            after_commit=lambda t: scene.witness.told_committed(t.known_xid, tuple(agreed[t.known_xid])),
            after_rollback=_told_rolled_back(scene),
        )
        retries = rng.choice([0, 0, 1])
        run = client.global_transaction(name=f"order-{number}", timeout=timeout, retries=retries, hooks=hooks)(order)
        with contextlib.suppress(TxcoordError, TimeoutError, ValueError):  # the hooks have heard of it
            await run()

    def _call(self, number: int) -> tuple[str, dict[str, Any]]:
        """What one call of an order asks for."""
        rng = self.scene.loop.rng
        if rng.random() < 0.6:
            fails = rng.random() < self.scene.profile.local_failures
            return rng.choice(["stock", "balance"]), {"kind": "reserve", "number": number, "fails": fails}
        what = {"kind": "rows", "number": number, "items": rng.sample(ROWS, rng.choice([1, 1, 2]))}
        return rng.choice(["balance", "balance", "stock"]), what

    async def _request(self, service: str, what: dict[str, Any]) -> bool:
        """Call a service as the SDK's HTTP transports do; False: it said no, and the order goes on without it.

        Raises:
            TimeoutError: No answer.
            ValueError: It failed.
        """
        scene = self.scene
        callee = scene.loop.rng.choice(self._participants[service])
        call = OutgoingCall(f"POST http://{service}")
        headers = await call.aheaders()
        try:
            status = await scene.network.request(callee.process, lambda: callee.call(headers, what), 1.5)
        except BaseException as error:
            call.unanswered(error)
            raise
        if status == 409 and scene.loop.rng.random() < 0.3:
            return False
        if status != 200:
            raise ValueError(f"{service} answered {status}")
        return True


def _told_rolled_back(scene: Scene) -> Callable[[GlobalTransaction], None]:
    def told(transaction: GlobalTransaction) -> None:
        if transaction.known_xid:
            scene.witness.told_rolled_back(transaction.known_xid)

    return told
