"""One coordinator process in its group: standby, candidate, leader, and back.

The store orders, everything else hints: who leads is decided by one conditional update of the group's row. A node that takes over
reads everything first and serves only then. A node that cannot prove that it leads throws its engine away; when it does not know
whether its last commit happened it takes a new epoch over itself, so that the old one can no longer be written to, and reads what
is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from txcoord_proto.errors import NotLeaderError, NotReadyError, StoreUnavailableError

from txcoord_server.domain.absent import History
from txcoord_server.engine.counters import Counters
from txcoord_server.engine.engine import Engine, EngineConfig
from txcoord_server.engine.leadership import Leadership
from txcoord_server.engine.ports import Clock, Rng
from txcoord_server.engine.storage import FencedError, GroupState, Lease, Store, StoreBusyError, UnknownCommitError

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class Moved:
    """Pushed to clients when this node stops leading."""


class Node:
    """A coordinator process.

    Args:
        config: Of the engines it will run.
        store: The group's store.
        name: Of this node, for people.
        clock: Time.
        rng: Chance.
        around_load: Surrounds the loading of many objects.
    """

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        name: str,
        clock: Clock,
        rng: Rng,
        around_load: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.config = config
        self.name = name
        self.engine: Engine | None = None
        """The engine that serves; None while this node does not lead or is loading."""
        self.counters = Counters()
        self.health = "starting"
        """Why this node does not serve; empty: it serves."""
        self.started = asyncio.Event()
        """Set once the store could be used."""
        self.placed = asyncio.Event()
        """Set once this node knows its place: it leads, or another one does."""
        self._store = store
        self._clock = clock
        self._rng = rng
        self._seen: GroupState | None = None
        self._around_load = around_load
        self._stopping = False
        self._pause = _FIRST_PAUSE
        self._failed_at = float("-inf")
        self._look = config.lease_ttl / 6000

    # ------------------------------------------------------------ for those who look

    @property
    def epoch_seen(self) -> int:
        """The group's epoch as this node saw it when it last looked; 0: not yet."""
        return self._seen.epoch if self._seen is not None else 0

    def require_engine(self) -> Engine:
        """The engine, if this node leads and its store takes commits.

        Raises:
            NotLeaderError: Another node leads; its details name the address and the epoch, if known.
            NotReadyError: This node is taking over.
        """
        if self.engine is not None:
            return self.engine
        if self.health == "loading":
            raise NotReadyError("this coordinator is taking over and reads its store; ask again", {"retry_after_ms": "100"})
        seen = self._seen
        details = {"leader": seen.address, "epoch": str(seen.epoch)} if seen is not None and seen.address else {}
        raise NotLeaderError(f"this coordinator is a standby ({self.health}); ask the leader", details)

    # ------------------------------------------------------------ life

    async def run(self) -> None:
        """Stand by, lead, and stand by again until `stop`."""
        await self._start()
        while not self._stopping:
            lease = await self._stand_by()
            while lease is not None and await self._lead(lease):
                lease = await self._take_over_myself(lease)
        await self._store.release()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping

    def stop(self) -> None:
        """Write what is left, give the leadership back and end `run`."""
        self._stopping = True
        if self.engine is not None:
            self.engine.stop()

    async def _start(self) -> None:
        delay = 0.2
        while not self._stopping:
            try:
                await self._store.start()
                self.started.set()
                return
            except StoreUnavailableError as error:
                self._unwell("the store cannot be reached", error)
                await asyncio.sleep(delay)
                delay = min(2.0, delay * 2)

    async def _stand_by(self) -> Lease | None:
        """Look at the group's row until it can be taken over."""
        self.health = "standby"
        while not self._stopping:
            try:
                self._seen = seen = await self._store.look()
                gone = seen.gone or not seen.holder
                if gone or seen.age >= self.config.lease_ttl:
                    lease = await self._store.take_over(seen.epoch, 0 if gone else self.config.lease_ttl, "TAKEN")
                    if lease is not None:
                        return lease
                else:
                    self.health = f"standby of {seen.holder}"
                    self.placed.set()
            except StoreBusyError as error:
                holder = self._seen.holder if self._seen is not None else ""
                self._unwell(
                    f"{holder} stands still inside a commit and blocks the store: end that process or let it go on", error
                )
            except StoreUnavailableError as error:
                self._unwell("the store cannot be reached", error)
            await asyncio.sleep(self._look * (0.75 + self._rng.random() / 2))
        return None

    async def _take_over_myself(self, lost: Lease) -> Lease | None:
        """After an unknown commit: a new epoch, unless somebody else was faster."""
        delay = 0.05
        while not self._stopping:
            try:
                seen = await self._store.look()
                if seen.epoch != lost.epoch:
                    return None
                return await self._store.take_over(lost.epoch, 0, "SELF")
            except StoreUnavailableError as error:
                self._unwell("a commit's outcome is unknown and the store cannot be reached", error)
                await asyncio.sleep(delay)
                delay = min(1.0, delay * 2)
        return None

    async def _lead(self, lease: Lease) -> bool:
        """Load, serve, and end; True when a commit's outcome is unknown and the epoch must be taken over anew."""
        self.health = "loading"
        self.counters.takeovers += 1
        try:
            history = History(self.config.group, await self._store.epochs())
            engine = Engine(self.config, self._store, lease, history, self._clock, self._rng, self.counters)
            leadership = Leadership(engine, self._store, self._clock)
            with self._around_load():
                await leadership.load()
        except Exception as error:
            self._unwell("loading failed", error)
            await self._rest()
            return True
        log.info(
            "%s leads group %s in epoch %d: %d unfinished transactions", self.name, self.config.group, lease.epoch,
            len(engine.ledger.by_xid),
        )  # fmt: skip
        if self._stopping:
            return False
        self.engine = engine
        self.health = ""
        self.placed.set()
        pauses = _FIRST_PAUSE, _LONGEST_PAUSE
        try:
            await leadership.run()
            return False
        except FencedError as error:
            self.counters.fenced += 1
            log.warning("another coordinator leads now: %s", error)
            return False
        except StoreUnavailableError as error:
            log.error("ended while the store takes no commits, what was not answered is not known to be done: %s", error)
            return False
        except UnknownCommitError as error:
            self.counters.unknown_commits += 1
            log.warning("the outcome of a commit is unknown, taking a new epoch: %s", error)
            pauses = 0.0, 1.0  # once costs no time; a store that fails again and again is given some
        except Exception:
            self.counters.defects += 1
            log.critical("a defect of txcoord: its memory is thrown away, the store is read anew in a new epoch", exc_info=True)
        finally:
            self._end(engine)
        await self._rest(*pauses)
        return True

    async def _rest(self, first: float = _FIRST_PAUSE, longest: float = _LONGEST_PAUSE) -> None:
        """A pause before something that may fail again, longer each time, short again after a while without failure.

        Args:
            first: Seconds after the first failure.
            longest: Seconds at most.
        """
        now = self._clock.monotonic()
        again = now - self._failed_at < 1.0 + 2 * self._pause
        self._pause = min(longest, max(_FIRST_PAUSE, self._pause * 2)) if again else first
        self._failed_at = now + self._pause
        await asyncio.sleep(self._pause)

    def _end(self, engine: Engine) -> None:
        self.engine = None
        self.health = "standby"
        engine.abandon()
        for connection in list(engine.connections):
            connection.reply(0, Moved())
            connection.close()

    def _unwell(self, what: str, error: Exception) -> None:
        text = f"{what}: {error}"
        if self.health != text:
            log.error("%s", text)
        self.health = text
