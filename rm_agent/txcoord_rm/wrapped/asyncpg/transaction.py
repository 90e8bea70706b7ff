"""asyncpg's Transaction, wrapped: a block that is a local transaction, or a savepoint in the one that is open."""

from __future__ import annotations

from sqlalchemy.util import greenlet_spawn

from txcoord_rm.wrapped.asyncpg.attached import AttachedAsyncpg

_STARTED = "already started"


class WrappedTransaction:
    """See asyncpg.

    Args:
        attached: The connection.
        isolation, readonly, deferrable: Those of the application.
    """

    def __init__(self, attached: AttachedAsyncpg, isolation: str | None, readonly: bool, deferrable: bool) -> None:
        attached.driver.transaction(isolation=isolation, readonly=readonly, deferrable=deferrable)  # which checks them
        self._attached = attached
        self._options = {"isolation": isolation, "readonly": readonly, "deferrable": deferrable}
        self._state = "not yet started"
        self._managed = False

    async def __aenter__(self) -> None:
        if self._managed:
            raise self._error("cannot enter context: already in an `async with` block")
        self._managed = True
        await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            await self._leave("rollback" if kind is not None else "commit")
        except self._attached.asyncpg.InterfaceError:
            if kind is not GeneratorExit:  # of a generator that goes on while the connection is back in its pool
                raise
        finally:
            self._managed = False

    async def start(self) -> None:
        """See asyncpg."""
        if self._state != "not yet started":
            raise self._error(f"cannot start; the transaction is {self._state}")
        attached = self._attached
        with attached.alone():
            if attached.open:
                await self._check_isolation()
            self._state = "in error state"
            await greenlet_spawn(attached.enter, self, self._options)
            self._state = _STARTED

    async def commit(self) -> None:
        """See asyncpg."""
        self._check_not_managed("commit")
        await self._leave("commit")

    async def rollback(self) -> None:
        """See asyncpg."""
        self._check_not_managed("rollback")
        await self._leave("rollback")

    async def _leave(self, how: str) -> None:
        attached = self._attached
        if self._state != _STARTED:
            raise self._error(f"cannot {how}; the transaction is {self._state}")
        if self not in attached.open:
            raise self._error(f"cannot {how}; the transaction has ended with the one around it")
        with attached.alone():
            self._state = "in error state"
            await greenlet_spawn(attached.leave, how == "commit", attached.open.index(self))
            self._state = "already committed" if how == "commit" else "already rolled back"

    async def _check_isolation(self) -> None:
        if not (wanted := self._options["isolation"]):
            return
        outer = (await self._attached.driver.fetchval("SHOW transaction_isolation")).replace(" ", "_")
        if outer != wanted:
            raise self._error(f"nested transaction has a different isolation level: current {wanted!r} != outer {outer!r}")

    def _check_not_managed(self, how: str) -> None:
        if self._managed:
            raise self._error(f"cannot manually {how} from within an `async with` block")

    def _error(self, text: str) -> Exception:
        error: Exception = self._attached.asyncpg.InterfaceError(text)
        return error
