"""Running a local transaction again after a deadlock or a serialisation failure, a few times."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from txcoord_sdk.database import Database
from txcoord_sdk.transaction.effects import Pause, Steps

T = TypeVar("T")

_ATTEMPTS = 8
_SECONDS = 20.0
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0


def again_after_transient_errors(database: Database, steps: Callable[[], Steps[T]], seconds: float = _SECONDS) -> Steps[T]:
    """Do the steps, which are one local transaction, until they succeed or fail for a reason of their own.

    Args:
        database: Where they run.
        steps: Begins them anew.
        seconds: After these, a failure is the last.
    """
    started, pause = time.monotonic(), _FIRST_PAUSE
    for _ in range(_ATTEMPTS - 1):
        try:
            return (yield from steps())
        except DBAPIError as error:
            transient = error.orig is not None and database.dialect.transient(error.orig)
            if not transient or time.monotonic() - started >= seconds:
                raise
        yield Pause(random.random() * pause)  # noqa: S311 - jitter
        pause = min(_LONGEST_PAUSE, pause * 2)
    return (yield from steps())
