"""Load generator over the stream: a state machine, not coroutines, since it must cost less than what it measures.

One process, one stream. Each business transaction is: begin with the first registration, second registration, two phase-one
reports, commit, two second phases answered. The clock stops when the last second phase has been answered.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field

import grpc
from txcoord_proto.v1 import coordinator_pb2 as pb

RESOURCES = ("db@11111111-1111-4111-8111-111111111111", "db@22222222-2222-4222-8222-222222222222")
ARGUMENTS = b'{"sku": "A-100", "quantity": 2, "order": 4711}'


def open_channel(address: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
    """A channel, with TLS or in the clear."""
    if credentials is None:
        return grpc.aio.insecure_channel(address)
    return grpc.aio.secure_channel(address, credentials)


@dataclass(slots=True)
class Result:
    """What one run measured."""

    transactions: int
    seconds: float
    latencies: list[float] = field(default_factory=list)
    committed: list[str] = field(default_factory=list)
    """XIDs of which the client was told that they are committed."""

    @property
    def per_second(self) -> float:
        """Global transactions a second."""
        return self.transactions / self.seconds

    def percentile(self, p: float) -> float:
        """Latency in milliseconds of begin to the answer of commit."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * p))] * 1000


class Load:
    """Drives many transactions at once until all have settled.

    Args:
        in_flight: How many at once.
        total: How many in all.
        decide: Whether they are committed; without it they stay ACTIVE.
        serve: Whether this process does the second phases; without it they are stuck.
        resources: Of the two branches.
    """

    def __init__(
        self,
        in_flight: int,
        total: int,
        decide: bool = True,
        serve: bool = True,
        resources: tuple[str, str] = RESOURCES,
    ) -> None:
        self.decide = decide
        self.serve = serve
        self.resources = resources
        self.in_flight = in_flight
        self.total = total
        self.result = Result(total, 0.0)
        self._begun = 0
        self._salt = secrets.token_hex(2)  # its locks are nobody else's
        self._settled = 0
        self._step = [0] * in_flight
        self._xid = [""] * in_flight
        self._branch = [0] * in_flight
        self._number = [0] * in_flight
        self._start = [0.0] * in_flight
        self._next_branch = 0
        self._last_branch = 0
        self._asked = False
        self._cap = 128
        self._requests: list[pb.Request] = []
        self._reports: tuple[list[str], list[int]] = ([], [])
        self._done: tuple[list[str], list[int]] = ([], [])
        self._wake = asyncio.Event()
        self._finished = asyncio.Event()

    async def run(self, address: str, token: str = "", credentials: grpc.ChannelCredentials | None = None) -> Result:
        """Run against a coordinator.

        Args:
            address: `host:port`.
            token: Where it wants one.
            credentials: TLS; None: in the clear.

        Raises:
            ConnectionError: The coordinator refused the session or closed it.
        """
        async with open_channel(address, credentials) as channel:
            call = channel.stream_stream(
                "/txcoord.v1.Coordinator/Session",
                request_serializer=pb.ClientBatch.SerializeToString,
                response_deserializer=pb.ServerBatch.FromString,
            )()
            hello = pb.Hello(
                protocol_min=1,
                protocol_max=1,
                service="bench",
                instance="load",
                token=token,
                resources=self.resources if self.serve else (),
            )
            await call.write(pb.ClientBatch(requests=[pb.Request(id=1 << 40, hello=hello)]))
            batch = await call.read()
            if batch is grpc.aio.EOF or not batch.events[0].HasField("welcome"):
                raise ConnectionError(f"{address} refused the session: {batch and batch.events[0].error.message}")
            welcome = batch.events[0].welcome
            self._next_branch = welcome.branch_ids.first
            self._last_branch = welcome.branch_ids.first + welcome.branch_ids.count
            self._cap = welcome.max_batch or 1_000_000
            tasks = [asyncio.ensure_future(self._write(call)), asyncio.ensure_future(self._read(call))]
            started = time.perf_counter()
            for slot in range(min(self.in_flight, self.total)):
                self._begin(slot)
            self._wake.set()
            finished = asyncio.ensure_future(self._finished.wait())
            await asyncio.wait([finished, *tasks], return_when=asyncio.FIRST_COMPLETED)
            self.result.seconds = time.perf_counter() - started
            self.result.transactions = len(self.result.committed)
            broken = not finished.done()
            for task in (finished, *tasks):
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            if broken:
                raise next(end for end in ends if isinstance(end, Exception))
        return self.result

    async def run_until_broken(self, address: str) -> Result:
        """As `run`, against a coordinator that is killed meanwhile; gives what was told until the stream broke."""
        with suppress(ConnectionError, grpc.RpcError, asyncio.InvalidStateError):
            await self.run(address)
        return self.result

    def _branch_id(self) -> int:
        self._next_branch += 1
        if self._last_branch - self._next_branch < 2 * self.in_flight and not self._asked:
            self._asked = True
            self._requests.append(pb.Request(id=1 << 41, allocate=pb.AllocateBranchIdsRequest(count=100_000)))
        return self._next_branch - 1

    def _begin(self, slot: int) -> None:
        self._number[slot] = self._begun
        self._begun += 1
        self._step[slot] = 1
        self._start[slot] = time.perf_counter()
        self._register(slot, 0, pb.BeginRequest(name="place_order", timeout_ms=600_000))

    def _register(self, slot: int, which: int, begin: pb.BeginRequest | None) -> None:
        self._branch[slot] = branch = self._branch_id()
        self._requests.append(
            pb.Request(
                id=slot + 1,
                register=pb.RegisterRequest(
                    xid="" if begin is not None else self._xid[slot],
                    begin=begin,
                    branch_id=branch,
                    type=pb.AT,
                    resource=self.resources[which],
                    lock_keys=(f"stock:{self._salt}{self._number[slot]:010d}",),
                    arguments=ARGUMENTS,
                ),
            )
        )

    def _advance(self, slot: int) -> None:
        step = self._step[slot] = self._step[slot] + 1
        xid = self._xid[slot]
        if step <= 3:
            self._reports[0].append(xid)
            self._reports[1].append(self._branch[slot])
            if step == 2:
                self._register(slot, 1, None)
            elif not self.decide:
                self._ended(slot, xid)
            else:
                self._requests.append(pb.Request(id=slot + 1, commit=pb.CommitRequest(xid=xid)))
            return
        self._ended(slot, xid)

    def _ended(self, slot: int, xid: str) -> None:
        self.result.latencies.append(time.perf_counter() - self._start[slot])
        self.result.committed.append(xid)
        if self._begun < self.total:
            self._begin(slot)
        if not (self.decide and self.serve) and len(self.result.committed) == self.total:
            self._finished.set()

    async def _write(self, call: grpc.aio.StreamStreamCall) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._requests or self._done[0] or self._reports[0]:
                cap = self._cap
                batch = pb.ClientBatch(
                    requests=self._requests[:cap],
                    reported_xids=self._reports[0][:cap],
                    reported_branches=self._reports[1][:cap],
                    done_xids=self._done[0][:cap],
                    done_branches=self._done[1][:cap],
                )
                for column in (self._requests, *self._reports, *self._done):
                    del column[:cap]
                await call.write(batch)

    async def _read(self, call: grpc.aio.StreamStreamCall) -> None:
        while (batch := await call.read()) is not grpc.aio.EOF:
            for slot, xid in zip(batch.begun, batch.begun_xids):
                self._xid[slot - 1] = xid
                self._advance(slot - 1)
            for slot in batch.ok:
                self._advance(slot - 1)
            for slot in batch.settled:
                self._advance(slot - 1)
            for commands in batch.commands:
                self._settled += len(commands.xids)
                self._done[0].extend(commands.xids)
                self._done[1].extend(commands.branch_ids)
            for event in batch.events:
                if event.HasField("branch_ids"):
                    self._next_branch = event.branch_ids.first
                    self._last_branch = event.branch_ids.first + event.branch_ids.count
                    self._asked = False
                elif not event.HasField("moved"):
                    raise AssertionError(f"unexpected answer: {event}")
            self._wake.set()
            if self._settled >= 2 * self.total and len(self.result.committed) >= self.total:
                self._finished.set()  # a second phase may come in an earlier batch than the answer to its commit
        raise ConnectionError("the coordinator closed the stream")
