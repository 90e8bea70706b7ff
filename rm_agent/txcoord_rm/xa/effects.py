"""What a statement means to a local transaction in XA mode: whether it only reads, and whether it may run at all.

The database undoes whatever runs in a transaction that it has prepared, so everything may run but what would end the transaction
unseen. What is not known to read only counts as a change: that costs a branch with nothing in it, never a change without one.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import Any

from txcoord_proto.errors import UnsupportedSqlError
from txcoord_sdk.dialects import Dialect

from txcoord_rm.sql.flavour import Flavour
from txcoord_rm.sql.reader import Reader
from txcoord_rm.sql.recogniser import Recogniser
from txcoord_rm.sql.statement import Verb
from txcoord_rm.sql.unsupported import refuse


class Effect(Enum):
    """What a statement does to the local transaction."""

    READS = "READS"
    """Nothing that has to be ended with the global transaction."""
    CHANGES = "CHANGES"
    """It changes or locks something, or may do so."""


_ENDS = frozenset({"BEGIN", "START", "COMMIT", "ROLLBACK", "END", "ABORT", "XA", "UNLOCK"})
_READS = frozenset({Verb.READ, Verb.SAVEPOINT, Verb.RELEASE, Verb.ROLLBACK_TO})
_WORDS = """
    all and any array as between bit by case cast char character decimal distinct else except exists extract filter from group
    having in int integer intersect interval is join lateral like limit not numeric offset on or order over partition returning
    row select some then time timestamp union using values varchar when where with within
"""
"""Of the language, where they stand before a bracket."""
_FUNCTIONS = """
    abs age array_agg array_length avg bool_and bool_or cardinality cast ceil ceiling char_length clock_timestamp coalesce
    concat concat_ws connection_id convert count cume_dist curdate current_database current_schema current_setting
    current_timestamp current_user database date date_add date_format date_part date_sub date_trunc day decode dense_rank
    encode extract first_value floor format found_rows generate_series greatest group_concat hour if ifnull instr json_agg
    json_array json_build_object json_extract json_object json_unquote jsonb_agg jsonb_array_elements jsonb_build_array
    jsonb_build_object lag last_insert_id last_value lead least left length lower lpad ltrim max md5 min minute mod month
    now nth_value ntile nullif percent_rank percentile_cont pg_backend_pid pg_typeof position power quarter rand random rank
    regexp_replace replace right round row_count row_number row_to_json rpad rtrim second sign split_part sqrt
    statement_timestamp stddev string_agg strpos substr substring sum timestampdiff to_char to_date to_json to_jsonb
    to_timestamp trim trunc truncate unix_timestamp unnest upper variance version week year
"""
"""That only compute."""
_HARMLESS = frozenset(f"{_WORDS} {_FUNCTIONS}".split())
_END = "it would end the local transaction unseen", "use commit() and rollback() of the connection or session"


class Effects:
    """Of one engine. It remembers texts: those of SQLAlchemy come again and again.

    Args:
        flavour: How they are read.
        dialect: Of the database.
    """

    def __init__(self, flavour: Flavour, dialect: Dialect) -> None:
        self._commits_unseen = dialect.commits_unseen
        self._flavours = {True: flavour, False: flavour.given(None)}
        self._recognisers = {given: Recogniser(flavour) for given, flavour in self._flavours.items()}
        self._effect = lru_cache(4096)(self._look)

    def effect(self, sql: str, parameters: Any) -> Effect:
        """What `sql` does; parameters are None where the driver gets none.

        Raises:
            UnsupportedSqlError: It would end the local transaction, or where it ends is not certain.
        """
        return self._effect(sql, parameters is not None)

    def _look(self, sql: str, given: bool) -> Effect:
        text = Reader(sql, self._flavours[given])
        if any(text.sign(place) == ";" for place in range(len(text.tokens))):
            raise refuse(sql, "there are several statements in one text", "run them one by one")
        words = [text.word(place) for place in range(min(2, len(text.tokens)))] + ["", ""]
        try:
            statement = self._recognisers[given].recognise(sql)
        except UnsupportedSqlError:
            self._check_stays(sql, *words[:2])
            return Effect.CHANGES
        reads = statement.verb in _READS and words[0] != "LOCK" and statement.functions <= _HARMLESS
        return Effect.READS if reads else Effect.CHANGES

    def _check_stays(self, sql: str, first: str, second: str) -> None:
        """Refuse what ends the local transaction."""
        if first in _ENDS or (first, second) == ("PREPARE", "TRANSACTION"):
            raise refuse(sql, *_END)
        if first in self._commits_unseen and second != "TEMPORARY":
            raise refuse(sql, "this database commits before it", "run it before or after the global transaction")
