"""What was recognised of a statement: its kind, and where in the text its parts stand."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from txcoord_rm.sql.flavour import Binds
from txcoord_rm.sql.lexer import Token
from txcoord_rm.sql.quoting import quoted


class Verb(Enum):
    """What a statement does."""

    READ = "READ"
    """It reads, or changes nothing that a rollback would have to put back."""
    LOCKING_READ = "LOCKING_READ"
    """A SELECT that locks the rows of its outermost level."""
    INSERT = "INSERT"
    """INSERT, also with ON CONFLICT or ON DUPLICATE KEY."""
    REPLACE = "REPLACE"
    """REPLACE, INSERT OR REPLACE: an INSERT that deletes what is in its way."""
    UPDATE = "UPDATE"
    """UPDATE."""
    DELETE = "DELETE"
    """DELETE."""
    MERGE = "MERGE"
    """MERGE, on PostgreSQL."""
    OTHER = "OTHER"
    """It may change rows of which its text does not tell, on PostgreSQL: CALL, DO, COPY, a query with a change in its WITH."""
    SAVEPOINT = "SAVEPOINT"
    """SAVEPOINT."""
    ROLLBACK_TO = "ROLLBACK_TO"
    """ROLLBACK TO SAVEPOINT."""
    RELEASE = "RELEASE"
    """RELEASE SAVEPOINT."""


class Source(Enum):
    """Where the rows of an INSERT come from."""

    VALUES = "VALUES"
    """VALUES, or MySQL's SET."""
    QUERY = "QUERY"
    """A query."""
    DEFAULTS = "DEFAULTS"
    """DEFAULT VALUES."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the text.

    Args:
        start, end: Places of its first character and behind its last.
    """

    start: int
    end: int

    def of(self, sql: str) -> str:
        """The part of `sql`."""
        return sql[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Target:
    """The table that a statement changes.

    Args:
        parts: Its name, with schema or database if they are written; as the database reads them.
        name: Where the name stands.
        alias: As written; None: it has none.
        only: Whether ONLY keeps its children out.
    """

    parts: tuple[str, ...]
    name: Span
    alias: str | None = None
    only: bool = False

    @property
    def written(self) -> str:
        """Its name as it may be written in SQL anywhere."""
        return ".".join(quoted(part) for part in self.parts)

    def reference(self, sql: str, binds: Binds) -> str:
        """What its columns are called by in the statement, with percent signs that stand for themselves."""
        name = self.alias or self.name.of(sql)
        return name.replace("%%", "%") if binds is Binds.PERCENT else name


@dataclass(frozen=True, slots=True)
class Equality:
    """A condition that every row fulfils which the statement changes: a column equals one of some values.

    Args:
        column: Its name, as the database reads it.
        values: Tokens of placeholders and constants.
    """

    column: str
    values: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. A part that it does not have is None.

    Attributes:
        sql: Its text.
        verb: What it does.
        main: From the verb, behind WITH and its queries, up to RETURNING or the end, without a semicolon.
        binds: Places of its placeholders, in order.
        functions: Names of functions that it calls, in lower case, without schema.
        with_: The queries of WITH, without that word and RECURSIVE.
        recursive: Whether WITH is RECURSIVE.
        target: What it changes.
        set: What follows SET, up to the next clause.
        assigned: Columns that SET assigns to, also in ON CONFLICT and ON DUPLICATE KEY.
        others: Further tables: what follows FROM of an UPDATE, USING of a DELETE or MERGE.
        where: What follows WHERE.
        chosen_by: Functions that FROM and WHERE of an UPDATE with further tables call: which rows it changes hangs on them.
        unsteady: What in them may choose other rows each time they are evaluated, but for functions; empty: nothing.
        tail: ORDER BY and LIMIT, from their first word on.
        returning: What follows RETURNING.
        returned: Names of the columns that RETURNING makes, where each of its items has one of its own or is a star (empty); else
            none.
        stars: Items of RETURNING that are a star alone.
        equalities: What WHERE says of single columns, if it is a conjunction; for lock keys only: there may be more conditions.
        columns: Of an INSERT, as far as they are written.
        source: Of an INSERT.
        conflict: ON CONFLICT or ON DUPLICATE KEY, from ON up to RETURNING.
        locking: The locking clause of a read, from its first word on.
        locked: Tables of which it locks rows; the first is its target.
        items: What follows SELECT of such a read, up to FROM.
        savepoint: Its name, as written.
        unseen: Why not all rows that it changes are known from it, and what to do about that; None: they are.
        either: OR IGNORE and the like of SQLite, IGNORE of MySQL, in upper case; empty: none.
    """

    sql: str
    verb: Verb
    main: Span
    binds: tuple[Token, ...] = ()
    functions: frozenset[str] = frozenset()
    with_: Span | None = None
    recursive: bool = False
    target: Target | None = None
    set: Span | None = None
    assigned: tuple[str, ...] = ()
    others: Span | None = None
    where: Span | None = None
    chosen_by: frozenset[str] = frozenset()
    unsteady: str = ""
    tail: Span | None = None
    returning: Span | None = None
    returned: tuple[str, ...] = ()
    stars: tuple[Span, ...] = ()
    equalities: tuple[Equality, ...] = ()
    columns: tuple[str, ...] = ()
    source: Source | None = None
    conflict: Span | None = None
    locking: Span | None = None
    locked: tuple[Target, ...] = ()
    items: Span | None = None
    savepoint: str = ""
    unseen: tuple[str, str] | None = None
    either: str = ""

    def __hash__(self) -> int:
        return hash(self.sql)
