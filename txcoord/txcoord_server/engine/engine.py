"""What a leader keeps in memory: requests step the domain, effects gather into group commits, answers follow them.

Nothing here waits: `leadership` writes the groups and says when time has passed. All state belongs to one event loop, so requests
of one XID are in order by construction. While one group is being written the next gathers; nothing durable is told before its
commit has returned. What nobody waits for (reports, acknowledgements of second phases) rides with the next group that somebody
does wait for, at most `lazy` later.

An engine lives for one epoch. When it cannot prove that it still leads, it is thrown away with everything in its memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field

from txcoord_proto.errors import NotLeaderError, StoreUnavailableError
from txcoord_proto.status import CommandResult, Reason
from txcoord_proto.xid import is_xid

from txcoord_server.domain.absent import History, answer_absent
from txcoord_server.domain.answers import OK, Answer, Recipient, Refused
from txcoord_server.domain.effects import Effects, StoredOutcome
from txcoord_server.domain.limits import Limits
from txcoord_server.domain.operator import Operator
from txcoord_server.domain.session import Branch, Transaction
from txcoord_server.domain.transactions import Transactions
from txcoord_server.domain.transitions import ENDED_BRANCH, FINAL
from txcoord_server.engine.call import Call
from txcoord_server.engine.connection import Connection, Principal
from txcoord_server.engine.counters import Counters
from txcoord_server.engine.dispatcher import DispatchConfig, Dispatcher
from txcoord_server.engine.inspection import Inspection
from txcoord_server.engine.ports import Clock, Rng
from txcoord_server.engine.retention import Retention, RetentionConfig
from txcoord_server.engine.rows import RowBuilder
from txcoord_server.engine.storage import BRANCH_ID_RESERVE, GroupWrite, Lease, Store

log = logging.getLogger(__name__)

BRANCH_ID_BLOCK = 4_096
MOST_GATHERED = 50_000
"""Answers that may wait for one group commit, counting each XID that the store is asked about."""
_LINES = 20


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an engine is told.

    Attributes:
        group: Name of the group that it leads.
        limits, dispatch, retention: Rules of the domain, of the dispatcher and of purging.
        lease_ttl: Milliseconds without a group commit after which others may take over.
        lazy: Milliseconds that rows may wait which nobody waits for.
        tick: Milliseconds between two looks at the timers.
    """

    group: str = "default"
    limits: Limits = field(default_factory=Limits)
    dispatch: DispatchConfig = field(default_factory=DispatchConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    lease_ttl: int = 3_000
    lazy: int = 10
    tick: int = 50


class Engine:
    """The leader of one epoch.

    Args:
        config: What it is told.
        store: Where its groups are written; asked here for what is finished.
        lease: What its takeover granted.
        history: Epochs that the store knows.
        clock, rng: Time and chance.
        counters: Counts for metrics; they outlive the engine.
    """

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        lease: Lease,
        history: History,
        clock: Clock,
        rng: Rng,
        counters: Counters,
    ) -> None:
        self.config = config
        self.lease = lease
        self.history = history
        self.counters = counters
        self.transactions = Transactions(config.group, lease.epoch, config.limits)
        self.ledger = self.transactions.ledger
        self.dispatcher = Dispatcher(self.transactions.settler, config.dispatch, rng, self.now, counters)
        self.operator = Operator(self.transactions)
        self.inspection = Inspection(self.ledger, self.dispatcher, history, store, self.fence)
        self.connections: dict[Connection, None] = {}
        self.calls: dict[Call, None] = {}
        """Unary calls, and others, that have not been answered."""
        self.commit_seq = lease.commit_seq
        self.trouble = ""
        """Why the store cannot be written to at the moment; empty: all is well."""
        self.retention = Retention(config.retention, history, lease.epoch)
        self.wanted = asyncio.Event()
        """Set when somebody waits for a group commit."""
        self.room = asyncio.Event()
        """Set unless the next group commit has gathered too much: with a store that takes none, memory must not grow."""
        self.room.set()
        self.stopping = False
        self._clock = clock
        self._base = lease.now - int(clock.monotonic() * 1000)
        self.time = lease.now
        """See `now`."""
        self._rows = RowBuilder(config.group, self.retention)
        self._branch_ids = lease.branch_ids
        self._branch_ids_end = lease.branch_ids_end
        self._lazy: asyncio.TimerHandle | None = None
        self._begun_before = counters.begun
        self._over = False
        self._defect: Exception | None = None

    def look_at_clock(self) -> int:
        """Bring `time` up to date; done once per batch of requests, group commit and tick."""
        self.time = self._base + int(self._clock.monotonic() * 1000)
        return self.time

    def now(self) -> int:
        """Milliseconds since 1970 by the store's clock, as it was at the takeover and counted on from there."""
        return self.time

    # ------------------------------------------------------------ connections

    def attach(self, connection: Connection) -> None:
        """A client's stream is open."""
        self.connections[connection] = None

    def detach(self, connection: Connection) -> None:
        """A client's stream has ended."""
        self.connections.pop(connection, None)
        connection.closed = True
        self.dispatcher.detach(connection)

    def call(self, principal: Principal | None = None) -> Call:
        """The recipient of the answer to one unary call, or to ourselves.

        Raises:
            NotLeaderError: It leads no more.
            StoreUnavailableError: So much waits for the store already that no more is taken.
        """
        if self._over:
            raise _over()
        if self._crowded:
            raise StoreUnavailableError(
                f"{MOST_GATHERED} answers wait for the store, which takes no commits at the moment: nothing was done, try again"
            )
        return Call(self.calls, principal)

    def grant_branch_ids(self, count: int = BRANCH_ID_BLOCK) -> tuple[int, int]:
        """A block of branch ids that no other client has or will have: first id and number.

        The reserve is raised by the next group commit; until that is durable, blocks come from what the last one reserved.
        """
        first = self._branch_ids
        if first + count > self._branch_ids_end:
            raise StoreUnavailableError("no branch ids are reserved; the store has not taken a commit for a while, try again")
        self._branch_ids += count
        return first, count

    # ------------------------------------------------------------ answers of participants

    def done(self, connection: Recipient, xid: str, branch_id: int) -> None:
        """A participant did a second phase."""
        branch = self._commanded(connection, xid, branch_id)
        if branch is not None:
            self.dispatcher.done(branch)

    def failed(self, connection: Recipient, xid: str, branch_id: int, result: CommandResult, code: str, error: str) -> None:
        """A participant could not do a second phase."""
        branch = self._commanded(connection, xid, branch_id)
        if branch is not None:
            self.dispatcher.failed(branch, result, code, error)

    def _commanded(self, connection: Recipient, xid: str, branch_id: int) -> Branch | None:
        """The branch that an answer is about, if it was commanded in this epoch, has not settled, and is the sender's.

        Commands follow the decision's group commit, so an answer to one proves that the decision is durable.
        """
        transaction = self.ledger.by_xid.get(xid)
        if transaction is None:
            return None
        for branch in transaction.branches:
            if branch.id == branch_id:
                awaited = branch.work is not None and branch.status not in ENDED_BRANCH
                return branch if awaited and connection.may(branch.resource) else None
        return None

    # ------------------------------------------------------------ questions

    def fence(self) -> Awaitable[Answer]:
        """Ends after a group commit that began after this call: what was read before it is the truth."""
        call = self.call()
        self.ledger.answer((call, 0), OK)
        self.flush()
        return call.result()

    # ------------------------------------------------------------ group commit

    def flush(self) -> None:
        """Called after each batch of requests: start a group commit if somebody waits for one."""
        effects = self.ledger.effects
        if effects.durable:
            self.wanted.set()
        elif self._lazy is None and effects:
            self._lazy = asyncio.get_running_loop().call_later(self.config.lazy / 1000, self._lazy_due)
        if self._crowded and not self._over:
            self.room.clear()

    @property
    def _crowded(self) -> bool:
        effects = self.ledger.effects
        return len(effects.answers) + effects.asked > MOST_GATHERED

    def _lazy_due(self) -> None:
        self._lazy = None
        self.ledger.effects.durable = True
        self.wanted.set()

    def stop(self) -> None:
        """What is left is written, then the leader's loops end."""
        self.stopping = True
        self.ledger.effects.durable = True
        self.wanted.set()

    def abandon(self) -> None:
        """It leads no more: nobody is left waiting for an answer that will not come."""
        self._over = True
        self.room.set()
        for call in list(self.calls):
            call.answer(0, Refused(_over()))

    def fail(self, defect: Exception) -> None:
        """A step ended half-way, which no input may bring about: nothing more is written from this memory."""
        self._defect = defect
        self.ledger.effects.durable = True
        self.wanted.set()

    def next_group(self) -> tuple[Effects, GroupWrite]:
        """Take what has gathered, and the rows of it.

        Raises:
            Exception: The defect because of which nothing more may be written.
        """
        if self._defect is not None:
            raise self._defect
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None
        effects = self.ledger.take_effects()
        self.room.set()
        return effects, self._write(effects)

    def committed(self, effects: Effects, write: GroupWrite, found: dict[str, StoredOutcome]) -> None:
        """The group is durable: tell everybody, start second phases."""
        self.commit_seq = write.commit_seq
        self._branch_ids_end = max(self._branch_ids_end, write.branch_ids)
        self.look_at_clock()
        for ticket, answer in effects.answers:
            ticket[0].answer(ticket[1], answer)
        for question in effects.absent:
            question.ticket[0].answer(question.ticket[1], answer_absent(question, found, self.history))
        dispatch = self.dispatcher.dispatch
        for transaction in effects.decided:
            self.counters.decided(transaction)
            if transaction.open:
                dispatch(transaction)
        _log_unasked(effects.decided)
        for xid, version, act, _, actor, reason in effects.audit:
            log.warning("%s of version %d by %s: %s", act, version, actor, reason or "no reason given", extra={"xid": xid})
        for transaction in effects.operated:
            self.dispatcher.resume(transaction)
        for transaction in effects.transactions:
            if transaction.stored_status in FINAL:
                transaction.branches.clear()  # they refer to each other: now both go without the collector

    def _write(self, effects: Effects) -> GroupWrite:
        ids_end = self._branch_ids_end
        if ids_end - self._branch_ids < BRANCH_ID_RESERVE // 2:
            ids_end += BRANCH_ID_RESERVE
        write = GroupWrite(self.lease.epoch, self.commit_seq + 1, ids_end, len(effects.answers))
        self._rows.fill(write, effects)
        self.retention.observe(self.now(), self.transactions.sequence)
        self.retention.fill(write)
        write.audit = effects.audit
        for question in effects.absent:
            write.asked += [xid for xid in question.xids if xid not in self.ledger.by_xid and is_xid(xid)]
        return write

    def troubled(self, what: str) -> None:
        """The store takes no commits."""
        if not self.trouble:
            log.error("the store takes no commits, nothing durable is answered: %s", what)
        self.trouble = what

    def relieved(self) -> None:
        """The store takes commits."""
        if self.trouble:
            log.warning("the store takes commits again")
            self.trouble = ""

    # ------------------------------------------------------------ time

    def tick(self) -> None:
        """Bring the timers up to date; `flush` follows."""
        self.transactions.tick(self.look_at_clock())
        self.dispatcher.tick()
        self.counters.begun = self._begun_before + self.transactions.sequence


def _log_unasked(decided: Sequence[Transaction]) -> None:
    """Tell of decisions that no initiator asked for; many at once are told by a few and their number."""
    unasked = [t for t in decided if t.reason is not Reason.REQUESTED]
    for transaction in unasked[:_LINES]:
        expected = transaction.reason in (Reason.ROLLBACK_ONLY, Reason.DEADLOCK)
        log.log(
            logging.INFO if expected else logging.WARNING,
            "decided %s, reason %s: %s of service %s, after %d ms with %d branches", transaction.decision, transaction.reason,
            transaction.name, transaction.service, transaction.decided_at - transaction.begun_at, len(transaction.branches),
            extra={"xid": transaction.xid},
        )  # fmt: skip
    if len(unasked) > _LINES:
        log.warning("%d more transactions were decided without being asked for in the same moment", len(unasked) - _LINES)


def _over() -> NotLeaderError:
    return NotLeaderError("this coordinator stopped leading before the answer was certain: ask the one that leads now")
