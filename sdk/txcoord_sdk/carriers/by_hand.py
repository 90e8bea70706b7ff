"""Headers by hand, for messages, tasks and whatever has no carrier of its own.

The receiver of a message handles it within the transaction only while the sender waits for it: a transaction that has ended takes
no more branches. Work that is done later belongs into a half message or an outbox.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Token
from types import TracebackType

from txcoord_proto import headers as names

from txcoord_sdk.carriers.incoming import Admission
from txcoord_sdk.carriers.outgoing import OutgoingCall
from txcoord_sdk.client import Client
from txcoord_sdk.context import enter, leave
from txcoord_sdk.transaction.transaction import GlobalTransaction


def current_headers() -> dict[str, str]:
    """Headers that carry the current global transaction, which is begun if that has not happened (blocks); empty: there is none.

    Whoever sends them has to call `set_rollback_only` on the transaction where no answer comes.

    Raises:
        TransactionEndedError: The current transaction has ended.
        CoordinatorUnreachableError: It could not be begun.
    """
    return OutgoingCall("a call by hand").headers()


async def acurrent_headers() -> dict[str, str]:
    """Headers that carry the current global transaction. Otherwise like `current_headers`."""
    return await OutgoingCall("a call by hand").aheaders()


class Joined:
    """A block within the transaction that some headers carry; what `joined` returns.

    At its end, before an answer can go out, the coordinator is told if the transaction was marked rollback-only in it.
    """

    def __init__(self, transaction: GlobalTransaction | None) -> None:
        self._transaction = transaction
        self._token: Token[GlobalTransaction | None] | None = None

    def __enter__(self) -> GlobalTransaction | None:
        self._token = enter(self._transaction)
        return self._transaction

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()
        if self._transaction is not None:
            self._transaction.veto()

    async def __aenter__(self) -> GlobalTransaction | None:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()
        if self._transaction is not None:
            await self._transaction.aveto()

    def _leave(self) -> None:
        assert self._token is not None
        leave(self._token)


def joined(headers: Mapping[str, str], *, client: Client | None = None) -> Joined:
    """Run a block (`with`, `async with`) within the transaction that `headers` carry; without one where they carry none.

    Args:
        headers: As `current_headers` gave them; names in any case.
        client: Another client than the one that `connect` made last.

    Raises:
        MalformedXidError: What they carry is no XID.
    """
    found = {name.lower(): value for name, value in headers.items()}
    xids = [found[names.XID]] if names.XID in found else []
    timeout, isolation = found.get(names.TIMEOUT, ""), found.get(names.ISOLATION, "")
    return Joined(Admission(client).transaction(xids, timeout, "", headers, isolation))
