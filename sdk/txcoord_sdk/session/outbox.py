"""What waits to be sent over the stream; whatever gathered while the last write was in flight goes out as one batch."""

from __future__ import annotations

import asyncio
from itertools import accumulate

from txcoord_proto.v1 import coordinator_pb2 as pb

MOST_MESSAGES = 10_000


class Outbox:
    """Requests, and the columns of reports and second phases."""

    def __init__(self) -> None:
        self._requests: list[pb.Request] = []
        self._reported: tuple[list[str], list[int]] = ([], [])
        self._done: tuple[list[str], list[int]] = ([], [])
        self._cap = 128
        self._most_bytes = 2 << 20
        self._bytes = 0
        """Of all requests."""
        self._wake = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._requests or self._reported[0] or self._done[0])

    def request(self, request: pb.Request, size: int = 0) -> None:
        """Queue a request.

        Args:
            request: It.
            size: In bytes, where it is known.
        """
        self._requests.append(request)
        self._bytes += size or request.ByteSize()
        self._wake.set()

    def report(self, xid: str, branch_id: int) -> None:
        """Queue the report that a phase one is done."""
        self._reported[0].append(xid)
        self._reported[1].append(branch_id)
        self._wake.set()

    def done(self, xid: str, branch_id: int) -> None:
        """Queue the answer that a second phase is done."""
        self._done[0].append(xid)
        self._done[1].append(branch_id)
        self._wake.set()

    def restart(self, cap: int, most_bytes: int) -> None:
        """A new stream: what is to be repeated is queued anew, answers to commands come with their commands.

        Args:
            cap: Messages of a kind in one batch; 0: any number.
            most_bytes: In one batch.
        """
        self._cap = min(cap or MOST_MESSAGES, MOST_MESSAGES)
        self._most_bytes = most_bytes // 2  # the columns take less than the other half
        for column in (self._requests, *self._reported, *self._done):
            column.clear()
        self._bytes = 0

    async def take(self) -> pb.ClientBatch:
        """The next batch, when there is one."""
        while not self:
            self._wake.clear()
            await self._wake.wait()
        cap = self._cap
        requests = self._requests[:cap]
        if self._bytes > self._most_bytes:
            sizes = list(accumulate(request.ByteSize() for request in requests))
            del requests[max(1, sum(size <= self._most_bytes for size in sizes)) :]
            self._bytes -= sizes[len(requests) - 1] if requests else 0
        elif len(requests) == len(self._requests):
            self._bytes = 0
        else:
            self._bytes -= sum(request.ByteSize() for request in requests)
        batch = pb.ClientBatch(
            requests=requests,
            reported_xids=self._reported[0][:cap],
            reported_branches=self._reported[1][:cap],
            done_xids=self._done[0][:cap],
            done_branches=self._done[1][:cap],
        )
        del self._requests[: len(requests)]
        for column in (*self._reported, *self._done):
            del column[:cap]
        return batch
