"""SQLAlchemy's engine plugin: `create_engine("postgresql+psycopg://...?plugin=txcoord")` enrols the engine."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.engine import CreateEnginePlugin
from sqlalchemy.ext.asyncio import AsyncEngine

from txcoord_rm.at.enroll import enroll


class EnrollPlugin(CreateEnginePlugin):
    """Enrols the engine with the client that `connect` made last."""

    def engine_created(self, engine: Engine) -> None:
        """See SQLAlchemy.

        Raises:
            ConfigurationError: There is no client yet, or the engine does not fit.
        """
        enroll(AsyncEngine(engine) if engine.dialect.is_async else engine)
