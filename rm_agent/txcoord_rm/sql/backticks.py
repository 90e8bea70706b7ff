"""Names and constants as MySQL and MariaDB write them, whatever sql_mode says."""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[A-Za-z0-9_ .,:$+-]*", re.ASCII)


def quoted(name: str) -> str:
    """A name as it is written in SQL."""
    return "`" + name.replace("`", "``") + "`"


def literal(text: str) -> str:
    """A string constant; one in which a backslash or quote could be read in two ways is written by its bytes."""
    return f"'{text}'" if _PLAIN.fullmatch(text) else f"_utf8mb4 x'{text.encode().hex()}'"
