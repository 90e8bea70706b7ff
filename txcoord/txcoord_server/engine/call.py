"""One answer that somebody waits for, where it does not go into a stream."""

from __future__ import annotations

import asyncio

from txcoord_server.domain.answers import Answer, Refused
from txcoord_server.engine.connection import Principal


class Call:
    """Somebody who waits for one answer: a unary call, or who asks for a group commit.

    Args:
        calls: Those of an engine that have not been answered; it joins them.
        principal: Who is at the other end; None: the coordinator itself.
    """

    name = ""

    def __init__(self, calls: dict[Call, None], principal: Principal | None = None) -> None:
        self._calls = calls
        self._principal = principal
        self._answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        calls[self] = None

    def may(self, resource: str) -> bool:
        """Whether the principal may register for `resource` and settle it."""
        return self._principal is not None and self._principal.covers(resource)

    def answer(self, request_id: int, answer: Answer) -> None:
        """Take the answer."""
        if not self._answer.done():
            self._answer.set_result(answer)

    async def result(self) -> Answer:
        """The answer.

        Raises:
            TxcoordError: It is a refusal, or the engine ended before there was one.
        """
        try:
            answer = await self._answer
        finally:
            self._calls.pop(self, None)
        if isinstance(answer, Refused):
            raise answer.error
        return answer
