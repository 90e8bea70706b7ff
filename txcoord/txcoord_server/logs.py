"""Log lines: for people by default, JSON on request. A line about a transaction carries its XID."""

from __future__ import annotations

import json
import logging
import time

_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class HumanFormatter(logging.Formatter):
    """Time, level, the XID in brackets where the line is about a transaction, and the text, all on one line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.formatMessage`."""
        text = record.message.replace("\n", "\\n")  # texts of participants are quoted: they must not look like lines of ours
        xid = getattr(record, "xid", "")
        record.message = f"[{xid}] {text}" if xid else text
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what was given as `extra` becomes a member."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((name, value) for name, value in record.__dict__.items() if name not in _KNOWN)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(form: str, level: str) -> None:
    """Set up the process's logging.

    Args:
        form: `human` or `json`.
        level: Name of the lowest level that is shown.
    """
    handler = logging.StreamHandler()
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(HumanFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
