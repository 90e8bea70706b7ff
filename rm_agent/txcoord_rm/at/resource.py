"""An enrolled engine: what its local transactions need to take part in global ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy.util import await_only
from txcoord_proto.errors import UnsupportedSqlError
from txcoord_sdk.client import Client
from txcoord_sdk.database import Database
from txcoord_sdk.transaction.effects import Steps, adrive, drive
from txcoord_sdk.transaction.isolation import Isolation

from txcoord_rm.at.participant import resource_of
from txcoord_rm.capture.port import Capture
from txcoord_rm.sql.flavour import Flavour
from txcoord_rm.sql.global_read import global_read
from txcoord_rm.sql.recogniser import Recogniser
from txcoord_rm.sql.statement import Statement, Verb

T = TypeVar("T")

_FEW_KEYS, _MOST_KEYS, _MOST_BYTES = 1_000, 10_000, 1 << 20
"""Lock keys that fit into one registration however long they are, most of one, and bytes of them."""


def registrations(keys: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Lock keys in portions of one registration each; there is always one, which may have none."""
    first, size = 0, 0
    if len(keys) > _FEW_KEYS and (len(keys) > _MOST_KEYS or len("".join(keys).encode("utf-8", "surrogatepass")) > _MOST_BYTES):
        for place, key in enumerate(keys):
            length = len(key) if key.isascii() else len(key.encode("utf-8", "surrogatepass"))
            if size + length > _MOST_BYTES or place - first == _MOST_KEYS:
                yield tuple(keys[first:place])
                first, size = place, 0
            size += length
    yield tuple(keys[first:])


class LocalWrites(StrEnum):
    """What becomes of writes outside global transactions."""

    IGNORE = "ignore"
    """Nothing: they may overwrite rows of an unfinished global transaction, which then cannot be rolled back."""
    CHECK = "check"
    """They wait for such rows."""
    REFUSE = "refuse"
    """They are an error."""


class Resource:
    """See the module.

    Args:
        client: Through which it talks to the coordinator.
        database: The engine's database.
        flavour: How its statements are read.
        capture: How their changes are captured.
        lock_wait: Seconds that a statement waits for a row which another global transaction holds.
        local_writes: What becomes of writes outside global transactions.
        isolation: At which level reads inside global transactions are, where nothing else is said.
    """

    def __init__(
        self,
        client: Client,
        database: Database,
        flavour: Flavour,
        capture: Capture,
        lock_wait: float,
        local_writes: LocalWrites = LocalWrites.IGNORE,
        isolation: Isolation = Isolation.READ_UNCOMMITTED,
    ) -> None:
        self.client = client
        self.database = database
        self.capture = capture
        self.lock_wait = lock_wait
        self.local_writes = local_writes
        self.isolation = isolation
        self._recogniser = Recogniser(flavour)
        bare = flavour.given(None)
        self._without_parameters = self._recogniser if bare is flavour else Recogniser(bare)
        self._name = ""
        self.where = f"on {database.sync_engine.url!r}"
        """Which database it is, for people."""

    def recognise(self, sql: str, parameters: Any) -> Statement:
        """What a statement does.

        Raises:
            UnsupportedSqlError: It could not be undone for certain.
        """
        return self._recogniser_for(parameters).recognise(sql)

    def global_read(self, statement: Statement, parameters: Any) -> Statement:
        """A plain read as one that takes global locks; one that reads from no table is left as it is.

        Raises:
            UnsupportedSqlError: It might see what is taken back later.
        """
        return global_read(statement, self._recogniser_for(parameters))

    def _recogniser_for(self, parameters: Any) -> Recogniser:
        return self._recogniser if parameters is not None else self._without_parameters

    def reads(self, sql: str) -> bool:
        """Whether a statement outside a global transaction only reads."""
        try:
            return self._recogniser.recognise(sql).verb in (Verb.READ, Verb.SAVEPOINT, Verb.RELEASE, Verb.ROLLBACK_TO)
        except UnsupportedSqlError:
            return False

    @property
    def name(self) -> str:
        """What it is called at the coordinator; empty until `ready`."""
        return self._name

    def ready(self) -> Resource:
        """See to it that the database has its identity and our tables; asks it the first time.

        Raises:
            ConfigurationError: They are missing and cannot be created by this user.
            UnavailableError: The database cannot be reached.
        """
        if not self._name:
            database = self.database
            identity = database.id or (await_only(database.aprepare()) if database.is_async else database.prepare())
            self._name = resource_of(identity)
        return self

    def wait(self, steps: Steps[T]) -> T:
        """Do what waits for the coordinator, inside a statement or a commit of the engine."""
        return await_only(adrive(steps)) if self.database.is_async else drive(steps)
