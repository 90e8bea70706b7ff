"""What a statement does and where its parts stand, by its words alone: no grammar is followed further than that needs.

Splices into the original text keep hints, casts, comments and functions; the database itself still parses the result, so that a
part found in the wrong place is its error, not a silent loss. What is not proven safe is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any

from txcoord_rm.sql import words
from txcoord_rm.sql.conditions import equalities
from txcoord_rm.sql.flavour import Family, Flavour
from txcoord_rm.sql.lexer import Kind
from txcoord_rm.sql.locking import locks
from txcoord_rm.sql.passing import passes
from txcoord_rm.sql.reader import Reader
from txcoord_rm.sql.rows_read import rows_read
from txcoord_rm.sql.statement import Source, Span, Statement, Target, Verb

SHORT = 16_384
"""Characters of a text of which many are remembered; of longer ones only a few."""


class Recogniser:
    """What statements of one flavour do. It remembers texts: those of SQLAlchemy come again and again.

    Args:
        flavour: How they are read.
    """

    def __init__(self, flavour: Flavour) -> None:
        self.flavour = flavour
        self._short = lru_cache(4096)(self._read)
        self._long = lru_cache(64)(self._read)

    def recognise(self, sql: str) -> Statement:
        """What `sql` does.

        Raises:
            UnsupportedSqlError: It could not be undone for certain.
        """
        return self._short(sql) if len(sql) <= SHORT else self._long(sql)

    def _read(self, sql: str) -> Statement:
        return _Text(sql, self.flavour).statement()


_UNITING = frozenset({"UNION", "INTERSECT", "EXCEPT"})
_QUERY = words.QUERIES | {"WITH", "("}
_BEFORE_NAMES = frozenset({",", ".", "AS", "BY", "SET", "TO", "DEFAULT", "USING", "CYCLE"})
_MODIFIERS = frozenset({"LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "QUICK", "IGNORE"})
_UPDATE_CLAUSES = frozenset({"SET", "FROM", "WHERE", "ORDER", "LIMIT", "RETURNING"})
_DELETE_CLAUSES = frozenset({"USING", "WHERE", "ORDER", "LIMIT", "RETURNING"})
_NO_ALIAS = _UPDATE_CLAUSES | _DELETE_CLAUSES | {"PARTITION", "JOIN", "INNER", "LEFT", "CROSS", "FOR", "INDEXED", "NOT"}
_NO_ALIAS |= {"ON", "NATURAL", "RIGHT", "FULL", "TABLESAMPLE", "GROUP", "HAVING", "WINDOW", "OFFSET", "FETCH"}
"""Words behind a table's name that are no alias of it."""
_TAILS = frozenset({"ORDER", "LIMIT"})


class _Text(Reader):
    """One text, while it is being recognised."""

    def statement(self) -> Statement:
        if not self.tokens:
            raise self.refuse("it is empty")
        if any(token.text == ";" and token.kind is Kind.SIGN for token in self.tokens):
            raise self.refuse("there are several statements in one text", "run them one by one")
        unseen = self._nested_changes()
        verb_at, with_, recursive = self._main_verb()
        verb = self.tokens[verb_at]
        if verb.text in words.QUERIES or (verb.text == "WITH" and with_ is None):
            found = self._query(verb_at)
        elif verb.text == "MERGE" and self.family is Family.POSTGRESQL:
            found = self._merge(verb_at)
        elif verb.text in words.CHANGES and verb.text != "MERGE":
            found = self._change(verb_at, verb.text)
        else:
            found = self._other(verb_at)
        if unseen is not None:
            if found.verb is Verb.LOCKING_READ:
                raise self.refuse(*unseen)
            found = replace(found, unseen=unseen, verb=Verb.OTHER if found.verb is Verb.READ else found.verb)
        return found if with_ is None else replace(found, with_=with_, recursive=recursive)

    # ------------------------------------------------------------ the whole

    def _main_verb(self) -> tuple[int, Span | None, bool]:
        """Place of the first word that says what is done; the queries before it, and whether they may be recursive."""
        first = next((i for i, token in enumerate(self.tokens) if token.text != "("), None)
        if first is None:
            raise self.refuse("it is empty")
        if self.word(first) != "WITH" or first:  # in brackets only a query can stand
            return first, None, False
        recursive = self.word(1) == "RECURSIVE"
        begin = 2 if recursive else 1
        for i in range(begin + 1, len(self.tokens)):
            query = self.sign(i) == "(" and self.at(i + 1) in _QUERY and self.sign(i - 1) == ")"
            verb = self.word(i) in words.QUERIES | words.CHANGES and self.at(i - 1) not in _BEFORE_NAMES
            if self.tokens[i].depth == 0 and (query or verb):
                return i + query, Span(self.tokens[begin].start, self.tokens[i - 1].end), recursive
        raise self.refuse("what follows WITH is not recognised")

    def _nested_changes(self) -> tuple[str, str] | None:
        """Why a statement that changes rows inside another is not seen, as its rows have no images; None: there is none."""
        for i in range(1, len(self.tokens) - 1):
            if self.tokens[i].depth and self.word(i) in words.CHANGES and self.at(i - 1) not in ("FOR", "KEY"):
                follower = self.tokens[i + 1]
                if follower.kind in (Kind.WORD, Kind.NAME):
                    if self.family is not Family.POSTGRESQL or self.at(i - 1) != "(":
                        raise self.refuse(*words.NESTED)
                    return words.NESTED
        return None

    def _functions(self, but: int = -1) -> frozenset[str]:
        """Names before a bracket, words of the language among them; not the one at `but`."""
        found = self._called(i for i in range(len(self.tokens)) if i != but)
        forbidden = found & words.FUNCTIONS[self.family]
        if forbidden:
            raise self.refuse(f"the effects of {min(forbidden)}() cannot be taken back")
        if counting := found & words.COUNTING.get(self.family, frozenset()):
            raise self.refuse(
                f"{min(counting)}() counts rows that txcoord writes, too", "use the rowcount of the cursor or result"
            )
        if "set_config" in found and not all(self._sets_own_by_call(i) for i in range(len(self.tokens))):
            raise self.refuse(*words.REASONS["SET"])
        return found

    def _called(self, places: Iterable[int]) -> frozenset[str]:
        """Names at these places before a bracket."""
        return frozenset(self.name(i).lower() for i in places if self.at(i + 1) == "(" and self.kind(i) in (Kind.WORD, Kind.NAME))

    def _sets_own_by_call(self, i: int) -> bool:
        """Whether what stands here is no call of set_config, or one for a setting of the application's own: `app.tenant`."""
        if self.kind(i) not in (Kind.WORD, Kind.NAME) or self.name(i) != "set_config":
            return True
        setting = self.tokens[i + 2] if i + 2 < len(self.tokens) else None
        return setting is not None and setting.kind is Kind.STRING and "." in setting.text

    def _made(self, verb: Verb, at: int, target_at: int = -1, returning_at: int | None = None, **parts: Any) -> Statement:
        """The statement; at its places stand the verb, the last part of a table's name before a bracket, and RETURNING."""
        returning = None if returning_at is None else self.span(returning_at + 1, None)
        if returning_at is not None and returning is None:
            raise self.refuse("nothing follows RETURNING")
        if returning_at is not None and self.at(returning_at + 1) == "WITH" and self.at(returning_at + 2) == "(":
            raise self.refuse("RETURNING WITH gives the old and new row other names", "call them old and new")
        end = self.tokens[-1 if returning_at is None else returning_at - 1].end
        binds = tuple(token for token in self.tokens if token.kind is Kind.BIND)
        main = Span(self.tokens[at].start, end)
        if returning_at is not None:
            parts |= {"stars": tuple(self._stars(returning_at)), "returned": self._returned(returning_at)}
        return Statement(self.sql, verb, main, binds, self._functions(target_at), returning=returning, **parts)

    def _returned(self, returning_at: int) -> tuple[str, ...]:
        """Names of the columns that RETURNING makes."""
        names: list[str] = []
        begin = returning_at + 1
        for end in range(begin, len(self.tokens) + 1):
            if end < len(self.tokens) and (self.sign(end) != "," or self.tokens[end].depth):
                continue
            last = self.kind(end - 1) in (Kind.WORD, Kind.NAME) and self.word(end - 1) not in ("NULL", "TRUE", "FALSE")
            dotted = all(self.sign(i) == "." for i in range(begin + 1, end, 2)) and (end - begin) % 2 == 1
            if begin + 1 == end and self.sign(begin) == "*":
                names.append("")
            elif last and (dotted or (self.at(end - 2) == "AS" and end - begin > 2)):
                names.append(self.name(end - 1))
            else:
                return ()
            begin = end + 1
        return tuple(names)

    def _stars(self, returning_at: int) -> Iterator[Span]:
        for i in range(returning_at + 1, len(self.tokens)):
            alone = self.at(i - 1) in ("RETURNING", ",") and (i + 1 == len(self.tokens) or self.sign(i + 1) == ",")
            if alone and self.sign(i) == "*" and not self.tokens[i].depth:
                yield Span(self.tokens[i].start, self.tokens[i].end)

    # ------------------------------------------------------------ what reads

    def _query(self, at: int) -> Statement:
        if any(self.word(i) == "INTO" for i in range(at, len(self.tokens))):
            raise self.refuse("SELECT INTO writes what it reads", "use INSERT ... SELECT, or read without INTO")
        united = self.tokens[at].depth or any(
            self.word(i) in _UNITING and not self.tokens[i].depth for i in range(at, len(self.tokens))
        )
        for i in range(at, len(self.tokens) - 1):
            if self.tokens[i].depth and not united:
                continue
            shared = self.word(i) == "LOCK" and self.word(i + 1) == "IN"
            if shared or (self.word(i) == "FOR" and self.word(i + 1) in words.LOCKS):
                if united:
                    raise self.refuse("which rows it locks does not stand at its outermost level", "leave the brackets out")
                return self._locking_read(at, Span(self.tokens[i].start, self.tokens[-1].end))
        return self._made(Verb.READ, at)

    def _locking_read(self, at: int, locking: Span) -> Statement:
        found = locks(self, at, self._target) if self.family is Family.POSTGRESQL else rows_read(self, at)
        if found is None:
            return self._made(Verb.READ, at)
        target = found.targets[0]
        pinned = equalities(self, found.where, target, found.joined)
        return self._made(
            Verb.LOCKING_READ, at, locking=locking, target=target, locked=found.targets, items=found.items, equalities=pinned
        )

    def _other(self, at: int) -> Statement:
        found = passes(self, at)
        return self._made(found.verb, at, savepoint=found.savepoint, unseen=found.unseen)

    # ------------------------------------------------------------ what changes rows

    def _change(self, at: int, verb: str) -> Statement:
        place, either = self._modifiers(at + 1)
        match verb:
            case "INSERT" | "REPLACE":
                return self._insert(at, place, either, Verb.REPLACE if "REPLACE" in (verb, either) else Verb.INSERT)
            case "UPDATE":
                return self._update(at, place, either)
            case _:
                return self._delete(at, place, either)

    def _modifiers(self, place: int) -> tuple[int, str]:
        """Behind what may stand between the verb and INTO, FROM or the table; and what happens to rows that cannot be written."""
        either = ""
        while self.at(place) in _MODIFIERS and self.family is Family.MYSQL:
            either = "IGNORE" if self.at(place) == "IGNORE" else either
            place += 1
        if self.at(place) == "OR" and self.family is Family.SQLITE:
            either = self.at(place + 1)
            place += 2
        return place, either

    def _insert(self, at: int, place: int, either: str, verb: Verb) -> Statement:
        if self.at(place) == "INTO":
            place += 1
        target_at = place
        target, place = self._target(place, alias_only_after_as=True)
        columns: tuple[str, ...] = ()
        if self.sign(place) == "(" and (self.at(place + 1) not in _QUERY or self.sign(place + 2) in (",", ")")):
            columns, place = self._names_in_brackets(place)
        if self.at(place) == "OVERRIDING":
            place += 3
        conflict_at, returning_at = self._insert_tail(place)
        match self.at(place):
            case "VALUES" | "VALUE":
                source = Source.VALUES
            case "SET" if self.family is Family.MYSQL:
                source, columns = Source.VALUES, self._assigned(place + 1, conflict_at or returning_at or len(self.tokens))
            case "DEFAULT":
                source = Source.DEFAULTS
            case "SELECT" | "WITH" | "TABLE" | "(":
                source = Source.QUERY
            case _:
                raise self.refuse("what it inserts is not recognised")
        assigned: tuple[str, ...] = ()
        conflict = None
        if conflict_at is not None:
            conflict = self.span(conflict_at, returning_at)
            assigned = self._conflict_assigns(conflict_at, returning_at)
        return self._made(
            verb, at, self.last_of_name(target_at), target=target, columns=columns, source=source, conflict=conflict,
            assigned=assigned, returning_at=returning_at, either=either,
        )  # fmt: skip

    def _insert_tail(self, place: int) -> tuple[int | None, int | None]:
        """Where ON CONFLICT or ON DUPLICATE KEY, and RETURNING, stand."""
        conflict = returning = None
        for i in range(place, len(self.tokens)):
            if self.tokens[i].depth:
                continue
            word = self.keyword(i)
            if word == "ON" and self.at(i + 1) in ("CONFLICT", "DUPLICATE"):
                conflict = i if conflict is None else conflict
            elif word == "RETURNING":
                returning = i
                break
        return conflict, returning

    def _conflict_assigns(self, begin: int, end: int | None) -> tuple[str, ...]:
        stop = len(self.tokens) if end is None else end
        found: list[str] = []
        for i in range(begin, stop):
            if self.tokens[i].depth:
                continue
            set_at = self.keyword(i) == "SET" and self.at(i - 1) == "UPDATE"
            duplicate = self.at(i) == "UPDATE" and self.at(i - 1) == "KEY"
            if set_at or duplicate:
                found += self._assigned(i + 1, stop)
        return tuple(dict.fromkeys(found))

    def _update(self, at: int, place: int, either: str) -> Statement:
        target, place = self._target(place)
        if self.at(place) != "SET":
            raise self.refuse("between its table and SET stands what is not recognised", "change one table at a time")
        clauses = self._clauses(place, _UPDATE_CLAUSES)
        assigned = self._assigned(*clauses["SET"])
        rows = self._rows(clauses, "FROM", target)
        if "FROM" in clauses:
            ranges = [range(*clauses[word]) for word in ("FROM", "WHERE") if word in clauses]
            rows |= {"chosen_by": self._called(chain(*ranges)), "unsteady": self._unsteady(at, chain(*ranges))}
        return self._made(Verb.UPDATE, at, set=self._content(clauses, "SET"), assigned=assigned, either=either, **rows)

    def _unsteady(self, at: int, places: Iterable[int]) -> str:
        """A word by which a query may choose other rows when it is evaluated again."""
        for i in places:
            if self.keyword(i) in ("LIMIT", "FETCH", "TABLESAMPLE"):
                return self.word(i)
            if self.word(i) == "FOR" and i + 1 < len(self.tokens) and self.word(i + 1) in words.LOCKS:
                return f"FOR {self.word(i + 1)}"
        for i in range(at):  # a query of WITH that is used twice is else evaluated once
            if self.word(i) == "MATERIALIZED" and self.at(i - 1) == "NOT":
                return "NOT MATERIALIZED"
        return ""

    def _delete(self, at: int, place: int, either: str) -> Statement:
        if self.at(place) != "FROM":
            raise self.refuse("it deletes from more than one table, or from one that is not recognised", "one table at a time")
        target, place = self._target(place + 1)
        if place < len(self.tokens) and self.keyword(place) not in _DELETE_CLAUSES:
            raise self.refuse("what follows its table is not recognised", "change one table at a time")
        clauses = self._clauses(place, _DELETE_CLAUSES)
        if self.family is Family.MYSQL and "USING" in clauses:
            raise self.refuse("it deletes from what USING joins", "delete WHERE the key is IN a sub-select")
        return self._made(Verb.DELETE, at, either=either, **self._rows(clauses, "USING", target))

    def _merge(self, at: int) -> Statement:
        target, place = self._target(at + 2 if self.at(at + 1) == "INTO" else at + 1)
        if self.at(place) != "USING":
            raise self.refuse("what follows its table is not recognised")
        outer = [i for i in range(place, len(self.tokens)) if not self.tokens[i].depth]
        returning_at = next((i for i in outer if self.keyword(i) == "RETURNING"), None)
        stop = len(self.tokens) if returning_at is None else returning_at
        whens = [i for i in outer if self.keyword(i) == "WHEN" and "MATCHED" in (self.at(i + 1), self.at(i + 2))] + [stop]
        assigned = [
            name
            for when, end in pairwise(whens)
            for i in range(when, end)
            if self.keyword(i) == "SET" and self.at(i - 1) == "UPDATE" and not self.tokens[i].depth
            for name in self._assigned(i + 1, end)
        ]
        return self._made(
            Verb.MERGE, at, target=target, assigned=tuple(dict.fromkeys(assigned)), others=self.span(place + 1, whens[0]),
            returning_at=returning_at,
        )  # fmt: skip

    def _rows(self, clauses: dict[str, tuple[int, int]], joins: str, target: Target) -> dict[str, Any]:
        """Which rows an UPDATE or DELETE is about: arguments of `_made`.

        Args:
            clauses: Its clauses.
            joins: The word before its further tables.
            target: What it changes.
        """
        others = self._content(clauses, joins)
        return {
            "target": target,
            "others": others,
            "where": self._where(clauses),
            "tail": self._tail(clauses),
            "returning_at": self._begin(clauses, "RETURNING"),
            "equalities": equalities(self, clauses.get("WHERE"), target, others is not None),
        }

    # ------------------------------------------------------------ parts

    def _target(self, place: int, alias_only_after_as: bool = False) -> tuple[Target, int]:
        only = False
        if self.family is Family.POSTGRESQL and self.at(place) == "ONLY":
            only, place = True, place + 1
        begin = place
        parts, place = self.qualified(place, "the table that it changes is not recognised", "name one table")
        name = self.span(begin, place)
        if self.family is Family.POSTGRESQL and self.sign(place) == "*":
            place += 1
        alias = None
        if self.at(place) == "AS":
            alias, place = self.tokens[place + 1], place + 2
        elif not alias_only_after_as and self.kind(place) in (Kind.WORD, Kind.NAME) and not self._starts_clause(place):
            alias, place = self.tokens[place], place + 1
        written = None if alias is None else self.sql[alias.start : alias.end]
        assert name is not None
        return Target(tuple(parts), name, written, only), place

    def _starts_clause(self, place: int) -> bool:
        return self.word(place) in _NO_ALIAS

    def _clauses(self, begin: int, known: frozenset[str]) -> dict[str, tuple[int, int]]:
        """Clauses by their first word: places of the first token behind it, and of the one behind their last."""
        starts: list[tuple[str, int]] = []
        for i in range(begin, len(self.tokens)):
            word = self.keyword(i)
            if self.tokens[i].depth or word not in known or (starts and starts[-1][0] == "RETURNING"):
                continue
            if word == "FROM" and self.at(i - 1) == "DISTINCT":
                continue  # IS DISTINCT FROM
            if word == "USING" and starts:
                continue  # of a join
            if any(word == name for name, _ in starts):
                raise self.refuse(f"{word} stands in it twice", "quote names that are words of SQL")
            starts.append((word, i))
        ends = [i for _, i in starts[1:]] + [len(self.tokens)]
        return {word: (i + 1, end) for (word, i), end in zip(starts, ends)}

    @staticmethod
    def _begin(clauses: dict[str, tuple[int, int]], word: str) -> int | None:
        return clauses[word][0] - 1 if word in clauses else None

    def _content(self, clauses: dict[str, tuple[int, int]], word: str) -> Span | None:
        return self.span(*clauses[word]) if word in clauses else None

    def _where(self, clauses: dict[str, tuple[int, int]]) -> Span | None:
        if "WHERE" in clauses and self.at(clauses["WHERE"][0]) == "CURRENT":
            raise self.refuse("which row a cursor stands on is not known before", "change it by its primary key")
        return self._content(clauses, "WHERE")

    def _tail(self, clauses: dict[str, tuple[int, int]]) -> Span | None:
        first = min((clauses[word][0] - 1 for word in _TAILS if word in clauses), default=None)
        return None if first is None else self.span(first, max(clauses[word][1] for word in _TAILS if word in clauses))

    def _assigned(self, begin: int, end: int) -> tuple[str, ...]:
        """Columns on the left of `=` in a list of assignments that stands at the depth of its first token."""
        found: list[str] = []
        depth, place = self.tokens[begin].depth if begin < end else 0, begin
        while place < end:
            if self.sign(place) == "(":
                names, _ = self._names_in_brackets(place)
                found += names
            elif self.kind(place) in (Kind.WORD, Kind.NAME):
                if self.family is not Family.POSTGRESQL:  # there further names are fields of a column
                    while self.sign(place + 1) == ".":
                        place += 2
                found.append(self.name(place))
            else:
                raise self.refuse("what it assigns to is not recognised")
            while place < end and not (self.sign(place) == "," and self.tokens[place].depth == depth):
                if self.tokens[place].depth == depth and self.keyword(place) == "WHERE":
                    return tuple(dict.fromkeys(found))
                place += 1
            place += 1
        return tuple(dict.fromkeys(found))

    def _names_in_brackets(self, place: int) -> tuple[tuple[str, ...], int]:
        """Names between the bracket at `place` and its end, with whatever stands behind each; and the place behind the end."""
        depth, names, expected = self.tokens[place].depth, list[str](), True
        place += 1
        while place < len(self.tokens) and not (self.tokens[place].depth == depth and self.tokens[place].text == ")"):
            if expected:
                if self.kind(place) not in (Kind.WORD, Kind.NAME):
                    raise self.refuse("a list of columns is not recognised")
                names.append(self.name(place))
            elif self.sign(place) == "." and self.family is not Family.POSTGRESQL:
                names.pop()
            expected = self.tokens[place].depth == depth + 1 and (
                self.sign(place) == "," or (self.sign(place) == "." and self.family is not Family.POSTGRESQL)
            )
            place += 1
        return tuple(names), place + 1
