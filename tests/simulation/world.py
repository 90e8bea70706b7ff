"""The simulated world: two coordinators on one store, participants with databases of their own, initiators; and its faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.pool import NullPool
from txcoord_proto.errors import OutcomeUnknownError, RolledBackError, TxcoordError
from txcoord_proto.status import BranchType, CommandResult, PhaseOne, Wait
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk import schema
from txcoord_sdk.config import ClientConfig
from txcoord_sdk.fence import fence
from txcoord_sdk.participant import Command, ParkError
from txcoord_sdk.session.requests import Beginning, Registration, Sink
from txcoord_sdk.session.session import Session
from txcoord_sdk.transaction.transaction import GlobalTransaction
from txcoord_server.engine.engine import EngineConfig
from txcoord_server.engine.node import Node
from txcoord_server.engine.retention import RetentionConfig
from txcoord_server.rpc.auth import Authenticator
from txcoord_server.rpc.service import CoordinatorService

from tests.simulation.loop import Process, SimLoop, nobody
from tests.simulation.network import Network, SimTransport
from tests.simulation.store import SimStore, StoreFaults, virtual_clock

NODES = ("c0:1", "c1:1")
_EFFECTS = (
    "CREATE TABLE effect (xid TEXT, branch_id INTEGER, kind TEXT)",
    "CREATE TABLE account (reserved INTEGER, sold INTEGER)",
    "INSERT INTO account VALUES (0, 0)",
)


@dataclass(frozen=True, slots=True)
class Profile:
    """How bad it gets, per virtual second or as a share.

    Attributes:
        seconds: How long the faults last.
        workers: Business transactions at once.
        kills, pauses, breaks, outages: Expected number a second.
        unknown: Share of group commits whose outcome is not told, while it is bad.
        local_failures: Share of tries that fail by themselves.
    """

    seconds: float = 8.0
    workers: int = 2
    kills: float = 0.4
    pauses: float = 0.3
    breaks: float = 0.7
    outages: float = 0.08
    unknown: float = 0.02
    local_failures: float = 0.08


STANDSTILLS = Profile(kills=0.05, pauses=1.0, breaks=1.0, outages=0.02)
"""Leaders that stand still longer than their lease, and clients that wander."""


@dataclass(slots=True)
class History:
    """What was told to whom.

    Attributes:
        committed: XIDs that an initiator was told are committed, with the participants that had said yes.
        rolled_back: XIDs that an initiator was told are rolled back.
        violations: What went wrong at once.
        faults: How many faults there were.
        transactions: Business transactions that were begun.
    """

    committed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rolled_back: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    faults: int = 0
    transactions: int = 0


class SimClock:
    """The simulation's time for the engine."""

    def __init__(self, loop: SimLoop) -> None:
        self.monotonic = loop.time


class Requests:
    """What a transaction asks of a client, in the simulation: the session itself, in one thread."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def begin(self, beginning: Beginning, sink: Sink) -> None:
        self.session.begin(beginning, sink)

    def register(self, beginning: Beginning, registration: Registration, sink: Sink) -> None:
        self.session.register(beginning, registration, sink)

    def commit(self, xid: str, wait: Wait, sink: Sink) -> None:
        self.session.commit(xid, wait, sink)

    def rollback(self, xid: str, wait: Wait, reason: str, sink: Sink) -> None:
        self.session.rollback(xid, wait, reason, sink)

    def rollback_only(self, xid: str, reason: str, sink: Sink) -> None:
        self.session.rollback_only(xid, reason, sink)

    def report(self, xid: str, branch_id: int, result: PhaseOne, error: str = "") -> None:
        self.session.report(xid, branch_id, result, error)


class Coordinator:
    """A coordinator process."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.node: Node | None = None
        self.store: SimStore | None = None
        self.process = Process(world.loop, name, self.main, self.died)

    async def main(self) -> None:
        world = self.world
        self.store = SimStore(world.loop, world.directory / "store.db", self.name, world.store_faults)
        keep = RetentionConfig(keep_committed_for=10**9)  # what was told is counted at the end
        config = EngineConfig(lease_ttl=3_000, tick=100, retention=keep)
        self.node = node = Node(config, self.store, self.name, SimClock(world.loop), world.loop.rng)
        authenticator = Authenticator()
        authenticator.load(())
        service = CoordinatorService(node, authenticator, 64)
        world.network.listen(self.name, self.process, service.session)
        await node.run()

    def died(self) -> None:
        self.world.network.died(self.name)
        if self.store is not None:
            self.store.crash()
        self.node = None


class Service:
    """A process with an SDK session."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.session: Session | None = None
        self.process = Process(world.loop, name, self.main, self.died)

    async def main(self) -> None:
        config = ClientConfig(self.name, NODES, failover_wait=20.0, instance=self.name)
        self.session = Session(config, SimTransport(self.world.network, self.name), self.world.loop.rng, self.on_command)
        self.prepare()
        await self.session.run()

    def prepare(self) -> None:
        """What comes before the session runs."""

    def on_command(self, command: Command) -> None:
        raise AssertionError(f"{self.name} serves nothing and was sent {command}")

    def died(self) -> None:
        self.world.network.died(self.name)
        self.session = None

    def transaction(self, beginning: Beginning, initiator: bool) -> GlobalTransaction:
        assert self.session is not None
        return GlobalTransaction(Requests(self.session), beginning, initiator, 3600.0)


class ParticipantService(Service):
    """A service with a database, whose tries, confirms and cancels meet at the real fence."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.resource = f"{name}:act@{name}"
        path = world.directory / f"{name}.db"
        self.engine: Engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
        event.listen(self.engine, "connect", self._connected)
        with self.engine.begin() as connection:
            schema.metadata.create_all(connection)
            for statement in _EFFECTS:
                connection.execute(text(statement))

    def _connected(self, raw: Any, record: object) -> None:
        raw.execute("PRAGMA synchronous = OFF")
        virtual_clock(self.world.loop, raw)

    def prepare(self) -> None:
        assert self.session is not None
        self.session.serve(self.resource)

    async def attempt(self, xid: str, number: int, fails: bool) -> None:
        """A try within the transaction `xid`."""
        rng = self.world.loop.rng
        beginning = Beginning("joined", 0)
        beginning.xid = xid
        transaction = self.transaction(beginning, initiator=False)
        lock = f"row-{number}"
        branch = await transaction.aregister(
            Registration(BranchType.TCC, self.resource, (lock,), json.dumps({"number": number}).encode())
        )
        self.world.holds(self.resource, lock, xid)
        await asyncio.sleep(rng.expovariate(20))
        try:
            with self.engine.begin() as connection:
                fence.tried(connection, xid, branch, self.resource)
                self._effect(connection, xid, branch, "try", reserved=1)
                if fails:
                    raise ValueError("no stock")
        except BaseException as error:
            transaction.report(branch, PhaseOne.FAILED, repr(error))
            raise
        await asyncio.sleep(rng.expovariate(200))
        transaction.report(branch, PhaseOne.DONE)

    def on_command(self, command: Command) -> None:
        self.world.loop.keep(asyncio.ensure_future(self.settle(command)))

    async def settle(self, command: Command) -> None:
        rng = self.world.loop.rng
        for branch in command.branches:
            await asyncio.sleep(rng.expovariate(50))
            try:
                self._settle(command, branch.branch_id)
            except ParkError as error:
                result, text_ = CommandResult.PARK, str(error)
            else:
                result, text_ = CommandResult.DONE, ""
            await asyncio.sleep(rng.expovariate(200))
            if self.session is None:
                return
            if result is CommandResult.DONE and rng.random() < 0.95:
                self.session.done(command.xid, branch.branch_id)
            else:
                failed = result if result is CommandResult.PARK else rng.choice([CommandResult.RETRY, CommandResult.UNAVAILABLE])
                self.session.failed(command.xid, branch.branch_id, failed, "SIM", text_)

    def _settle(self, command: Command, branch: int) -> None:
        with self.engine.begin() as connection:
            if command.commit:
                if fence.confirmed(connection, command.xid, branch):
                    self._effect(connection, command.xid, branch, "confirm", reserved=-1, sold=1)
            elif fence.cancelled(connection, command.xid, branch, self.resource):
                self._effect(connection, command.xid, branch, "cancel", reserved=-1)

    @staticmethod
    def _effect(connection: Connection, xid: str, branch: int, kind: str, reserved: int = 0, sold: int = 0) -> None:
        connection.execute(text("INSERT INTO effect VALUES (:x, :b, :k)"), {"x": xid, "b": branch, "k": kind})
        connection.execute(text("UPDATE account SET reserved = reserved + :r, sold = sold + :s"), {"r": reserved, "s": sold})


class Initiator(Service):
    """A service that begins transactions, calls participants and decides."""

    def prepare(self) -> None:
        for number in range(self.world.profile.workers):
            self.world.loop.keep(asyncio.ensure_future(self.work(number)))
        self.world.loop.keep(asyncio.ensure_future(self.ask()))

    async def ask(self) -> None:
        """Ask about locks, again and again."""
        rng = self.world.loop.rng
        while self.world.bad:
            await asyncio.sleep(rng.expovariate(10))
            self.world.ask_lock(self, rng.choice(self.world.participants))

    async def work(self, worker: int) -> None:
        loop = self.world.loop
        while self.world.bad:
            await self.order()
            await asyncio.sleep(loop.rng.expovariate(4))

    async def order(self) -> None:
        """One business transaction over one or two participants."""
        world, rng = self.world, self.world.loop.rng
        world.history.transactions += 1
        transaction = self.transaction(Beginning("order", int(rng.uniform(2_000, 6_000))), initiator=True)
        called = rng.sample(world.participants, rng.choice([1, 2, 2]))
        number = world.history.transactions
        try:
            xid = await transaction.axid()
            for participant in called:
                await world.request(participant, xid, number)
        except (TxcoordError, TimeoutError, ValueError) as error:
            await self.end(transaction, error)
            return
        if rng.random() < 0.2:
            await asyncio.sleep(rng.uniform(0.3, 2.0))  # a person thinks, and locks are held meanwhile
        if rng.random() < 0.1:
            await self.end(transaction, ValueError("changed my mind"))
            return
        try:
            await transaction.acommit()
            world.history.committed[xid] = tuple(p.name for p in called)
        except RolledBackError:
            world.history.rolled_back.add(xid)
        except OutcomeUnknownError:
            pass

    async def end(self, transaction: GlobalTransaction, error: BaseException) -> None:
        try:
            await transaction.arollback(repr(error))
        except TxcoordError:
            return
        if transaction.known_xid:
            self.world.history.rolled_back.add(transaction.known_xid)


class World:
    """Everything that runs in one simulation.

    Args:
        seed: Decides everything.
        directory: For its databases.
        profile: How bad it gets.
    """

    def __init__(self, seed: int, directory: Path, profile: Profile) -> None:
        self.loop = SimLoop(seed)
        self.directory = directory
        self.profile = profile
        self.history = History()
        self.bad = True
        self.store_faults = StoreFaults()
        self.network = Network(self.loop)
        self._held: dict[tuple[str, str], str] = {}
        self.coordinators = [Coordinator(self, name) for name in NODES]
        self.participants = [ParticipantService(self, name) for name in ("stock", "balance")]
        self.initiators = [Initiator(self, "order"), Initiator(self, "shop")]

    @property
    def services(self) -> list[Service]:
        """All processes with a session."""
        return [*self.participants, *self.initiators]

    @property
    def processes(self) -> list[Process]:
        """All processes."""
        return [*(c.process for c in self.coordinators), *(s.process for s in self.services)]

    # ------------------------------------------------------------ calls between services

    async def request(self, participant: ParticipantService, xid: str, number: int) -> None:
        """Call a participant's try over a network that loses calls and answers.

        Raises:
            TimeoutError: No answer.
        """
        rng = self.loop.rng
        fails = rng.random() < self.profile.local_failures
        answer: asyncio.Future[BaseException | None] = self.loop.create_future()

        async def serve() -> None:
            error: BaseException | None = None
            try:
                await participant.attempt(xid, number, fails)
            except (TxcoordError, ValueError, AssertionError) as raised:
                error = raised
            self.loop.call_later(self.network.latency(), tell, error, context=nobody())

        def tell(error: BaseException | None) -> None:
            if not answer.done() and not (self.bad and rng.random() < 0.03):
                answer.set_result(error)

        def arrive() -> None:
            if participant.process.alive and participant.session is not None:
                participant.process.run(serve())

        copies = 1 + (self.bad and rng.random() < 0.03)
        for _ in range(copies):
            if not (self.bad and rng.random() < 0.03):
                self.loop.call_later(self.network.latency(), arrive, context=nobody())
        error = await asyncio.wait_for(answer, 1.5)
        if error is not None:
            raise error if isinstance(error, TxcoordError) else ValueError(str(error))

    # ------------------------------------------------------------ lock queries

    def holds(self, resource: str, lock: str, xid: str) -> None:
        """A registration with a lock was acknowledged."""
        self._held[resource, lock] = xid

    def ask_lock(self, service: Service, participant: ParticipantService) -> None:
        """Ask whether a lock is free that is known to be held, and check the answer."""
        held = [(key, xid) for (resource, key), xid in self._held.items() if resource == participant.resource]
        if not held or service.session is None:
            return
        key, xid = held[-1]
        request = service.session._request()
        request.lock_query.resource = participant.resource
        request.lock_query.lock_keys.append(key)

        def answered(reply: object, error: BaseException | None) -> None:
            if isinstance(reply, pb.LockReply) and reply.free and not self.released(participant, xid):
                self.history.violations.append(f"lock {key} was told to be free while {xid} held it")

        service.session._ask(request, answered)

    def released(self, participant: ParticipantService, xid: str) -> bool:
        """Whether the branches of `xid` at `participant` have ended, or never ran: then its locks may be free."""
        with participant.engine.connect() as connection:
            states = list(connection.scalars(text("SELECT state FROM txcoord_fence WHERE xid = :x"), {"x": xid}))
        return not states or "TRIED" not in states

    # ------------------------------------------------------------ the course of a simulation

    def run(self) -> History:
        """Run it from its seed; the invariants are checked elsewhere."""
        self.loop.run(self._main(), until=2_000.0)
        return self.history

    async def _main(self) -> None:
        for process in self.processes:
            process.start()
        await self._nemesis()
        self.bad = False
        self.store_faults.unknown = 0.0
        self.store_faults.down = False
        for process in self.processes:
            if not process.alive:
                process.start()
        quiet = 0
        for _ in range(600):
            await asyncio.sleep(1.0)
            quiet = quiet + 1 if self._quiet() else 0
            if quiet == 2:
                return
        self.history.violations.append("not everything ended within 600 s after the last fault")

    def _quiet(self) -> bool:
        leading = [c.node.engine for c in self.coordinators if c.node is not None and c.node.engine is not None]
        return (
            len(leading) == 1
            and not leading[0].ledger.by_xid
            and not leading[0].ledger.effects
            and all(s.session is not None and s.session.idle for s in self.services)
        )

    async def _nemesis(self) -> None:
        rng, profile = self.loop.rng, self.profile
        self.store_faults.unknown = profile.unknown
        kinds = {"kill": profile.kills, "pause": profile.pauses, "break": profile.breaks, "outage": profile.outages}
        end = self.loop.time() + profile.seconds
        while self.loop.time() < end:
            await asyncio.sleep(rng.expovariate(sum(kinds.values())))
            (kind,) = rng.choices(list(kinds), list(kinds.values()))
            self.history.faults += 1
            match kind:
                case "kill":
                    self._kill(rng.choice([*self.processes, *(c.process for c in self.coordinators)]))
                case "pause":
                    self._pause(
                        rng.choice([*self.processes, *(c.process for c in self.coordinators)]), rng.choice([0.3, 2.0, 5.0])
                    )
                case "break" if self.network.streams:
                    self.loop.note("break")
                    rng.choice(self.network.streams).break_up(1.0)
                case "outage":
                    self._background(self._outage(rng.uniform(0.2, 3.0)))

    def _pause(self, process: Process, seconds: float) -> None:
        """Stand still; some of its peers notice, since no keepalive is answered, and go elsewhere."""
        process.pause(seconds)
        for stream in [s for s in self.network.streams if process.name in s.ends and seconds >= 2.0]:
            if self.loop.rng.random() < 0.6:
                stream.lose(self.loop.rng.uniform(0.3, 1.5), seconds + 1.0)

    def _kill(self, process: Process) -> None:
        if process.alive:
            process.kill()
            self._background(self._restart(process, self.loop.rng.uniform(0.1, 4.0)))

    async def _restart(self, process: Process, after: float) -> None:
        await asyncio.sleep(after)
        if not process.alive and self.bad:
            process.start()

    async def _outage(self, seconds: float) -> None:
        self.store_faults.down = True
        await asyncio.sleep(seconds)
        self.store_faults.down = False

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.keep(self.loop.create_task(work))
