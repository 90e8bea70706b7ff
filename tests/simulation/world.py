"""The simulated world: two coordinators on one store, services with databases, and what goes wrong between them."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from txcoord_server.domain.limits import Limits
from txcoord_server.engine.engine import EngineConfig
from txcoord_server.engine.node import Node
from txcoord_server.engine.retention import RetentionConfig
from txcoord_server.rpc.auth import Authenticator
from txcoord_server.rpc.service import CoordinatorService

from tests.simulation.business import Outsiders
from tests.simulation.database import Disk
from tests.simulation.loop import Process, SimLoop
from tests.simulation.network import Network
from tests.simulation.person import Person
from tests.simulation.scene import Profile, Scene
from tests.simulation.services import NODES, Initiator, Participant, Service
from tests.simulation.store import SimStore, StoreFaults
from tests.simulation.witness import Witness

_INSTANCES = {"stock": ("stock-0", "stock-1"), "balance": ("balance-0",)}
_LIMITS = Limits(commit_wait=1_500, rollback_wait=3_000)
_RETENTION = RetentionConfig(keep_committed=3, keep_committed_for=2_000, keep_notable_for=2_000, sweep=1_000)


class SimClock:
    """The simulation's time for the engine."""

    def __init__(self, loop: SimLoop) -> None:
        self.monotonic = loop.time


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
        self.store = SimStore(world.loop, world.directory / "store.db", self.name, world.store_faults, world.witness)
        config = EngineConfig(limits=_LIMITS, lease_ttl=3_000, tick=100, retention=_RETENTION)
        self.node = node = Node(config, self.store, self.name, SimClock(world.loop), world.loop.rng)
        world.nodes.append(node)
        authenticator = Authenticator(always=False)
        authenticator.load(())
        service = CoordinatorService(node, authenticator, 64)
        world.network.listen(self.name, self.process, service.session)
        await node.run()

    def died(self) -> None:
        self.world.network.died(self.name)
        if self.store is not None:
            self.store.crash()
        self.node = None


class World:
    """Everything that runs in one simulation.

    Args:
        seed: Decides everything.
        directory: With its databases.
        profile: How bad it gets.
    """

    def __init__(self, seed: int, directory: Path, profile: Profile) -> None:
        self.loop = SimLoop(seed)
        self.directory = directory
        self.profile = profile
        self.faults = 0
        self.nodes: list[Node] = []
        """All that were ever started."""
        self.store_faults = StoreFaults()
        self.network = Network(self.loop)
        self.disks = {name: Disk(self.loop, directory / f"{name}.db") for name in _INSTANCES}
        self._reading: dict[str, sqlite3.Connection] = {}
        self.witness = Witness(directory / "store.db", self.loop.time, self._tried, self._kept)
        self.outsiders = Outsiders(self.loop.rng, {name: disk.path for name, disk in self.disks.items()})
        self.scene = Scene(self.loop, self.network, self.witness, profile)
        self.coordinators = [Coordinator(self, name) for name in NODES]
        self.participants = {
            name: [Participant(self.scene, name, instance, self.disks[name]) for instance in instances]
            for name, instances in _INSTANCES.items()
        }
        self.initiators = [Initiator(self.scene, name, f"{name}-0", self.participants) for name in ("order", "shop")]

    @property
    def services(self) -> list[Service]:
        """All processes with a client."""
        return [*(p for some in self.participants.values() for p in some), *self.initiators]

    @property
    def processes(self) -> list[Process]:
        """All processes."""
        return [*(c.process for c in self.coordinators), *(s.process for s in self.services)]

    def _tried(self, resource: str, xid: str, branch: int) -> bool:
        """Whether the database of a resource has the effects of a branch's phase one."""
        if resource.startswith("db@"):
            return self._kept(resource, xid, branch)
        query = "SELECT 1 FROM effect WHERE xid = ? AND branch_id = ? AND kind = 'try'"
        return self._ask(resource, query, xid, branch)

    def _kept(self, resource: str, xid: str, branch: int) -> bool:
        """Whether a branch has undo records from which rows can be put back."""
        query = "SELECT 1 FROM txcoord_undo_log WHERE xid = ? AND branch_id = ? AND state = 'IMAGE'"
        return self._ask(resource, query, xid, branch)

    def _ask(self, resource: str, query: str, *parameters: object) -> bool:
        name = resource.rpartition("@")[2]
        raw = self._reading.get(name)
        if raw is None:
            raw = self._reading[name] = sqlite3.connect(self.disks[name].path, timeout=0, isolation_level=None)
        return raw.execute(query, parameters).fetchone() is not None

    # ------------------------------------------------------------ the course of a simulation

    def run(self) -> None:
        """Run it from its seed; what must hold at its end is checked elsewhere."""
        self.loop.run(self._main(), until=2_000.0)

    def close(self) -> None:
        """Everybody is dead, and nothing of it is remembered."""
        for process in self.processes:
            if process.alive:
                process.kill()
        for raw in self._reading.values():
            raw.close()
        self.witness.close()
        self.loop.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    async def _main(self) -> None:
        for process in self.processes:
            process.start()
        self._background(self._look_after())
        self._all_is_well(False)
        await self._nemesis()
        self._all_is_well(True)
        for process in self.processes:
            if not process.alive:
                process.start()
        quiet = 0
        for _ in range(600):
            await asyncio.sleep(1.0)
            quiet = quiet + 1 if self._quiet() else 0
            if quiet == 2:
                return self._look_for_locks()
        self.witness.violations.append("TC-8: not everything ended within 600 s after the last fault")

    def _look_for_locks(self) -> None:
        """AT-7: no lock without an unfinished holder, in the memory of any coordinator that believes to lead."""
        for coordinator in self.coordinators:
            if coordinator.node is None or (engine := coordinator.node.engine) is None:
                continue
            for entry in engine.ledger.locks.entries():
                if engine.ledger.by_xid.get(entry.holder.xid) is not entry.holder:
                    self.witness.violations.append(
                        f"AT-7: {coordinator.name}: {entry.key} is locked by {entry.holder.xid}, which has ended"
                    )

    async def _look_after(self) -> None:
        """A person asks any coordinator that believes to lead, again and again."""
        person = Person(self.loop.rng, self.witness, self.outsiders)
        while True:
            await asyncio.sleep(self.loop.rng.expovariate(0.5))
            for coordinator in self.coordinators:
                if coordinator.node is not None and coordinator.node.engine is not None:
                    coordinator.process.run(person.look_after(coordinator.node.engine, self.scene.bad))

    def _all_is_well(self, well: bool) -> None:
        share = 0.0 if well else 1.0
        self.scene.bad = not well
        self.store_faults.down = False
        self.store_faults.unknown = share * self.profile.unknown
        self.network.loss = share * self.profile.loss
        for disk in self.disks.values():
            disk.lost = share * self.profile.unknown

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
        kinds = ("kills", "pauses", "breaks", "outages", "jumps", "losses", "outsiders")
        rates = [float(getattr(profile, kind)) for kind in kinds]
        end = self.loop.time() + profile.seconds
        while self.loop.time() < end:
            await asyncio.sleep(rng.expovariate(sum(rates)))
            (kind,) = rng.choices(kinds, rates)
            self.faults += 1
            victim = rng.choice([*self.processes, *(c.process for c in self.coordinators)])
            match kind:
                case "kills":
                    self._kill(victim)
                case "pauses":
                    self._pause(victim, rng.choice([0.3, 2.0, 5.0]))
                case "breaks" if self.network.streams:
                    self.loop.note("break")
                    rng.choice(self.network.streams).break_up(1.0)
                case "outages":
                    self._background(self._outage(rng.choice([0.3, 1.0, 3.0, 7.0])))
                case "jumps":
                    self.store_faults.ahead += rng.choice([-5.0, 5.0, 60.0])
                case "outsiders":
                    self.witness.may_park.update(self.outsiders.write())
                case "losses":
                    self._lose(rng.choice([p for some in self.participants.values() for p in some]))

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
        if not process.alive and self.scene.bad:
            process.start()

    async def _outage(self, seconds: float) -> None:
        self.store_faults.down = True
        await asyncio.sleep(seconds)
        self.store_faults.down = False

    @staticmethod
    def _lose(participant: Participant) -> None:
        if participant.access is not None:
            participant.access.lose()

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.keep(self.loop.create_task(work))
