"""Running a local transaction again after a deadlock or a serialisation failure, a few times."""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import DBAPIError
from tenacity import retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from txcoord_sdk.database import Database


def after_transient_errors(database: Database) -> dict[str, Any]:
    """Arguments of tenacity's Retrying and AsyncRetrying."""

    def is_transient(error: BaseException) -> bool:
        return isinstance(error, DBAPIError) and error.orig is not None and database.dialect.transient(error.orig)

    return {
        "retry": retry_if_exception(is_transient),
        "stop": stop_after_attempt(8) | stop_after_delay(20),
        "wait": wait_random_exponential(multiplier=0.02, max=1.0),
        "reraise": True,
    }
