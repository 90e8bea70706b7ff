"""Thousands of requests with odd contents, over the stream, on every store: each is answered, and none stops the coordinator.

What a store cannot write must be refused at the door: a group commit that never succeeds would stop everybody.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_sdk.testing import CoordinatorProcess

from tests.integration.server.stub import BALANCE, STOCK, Stub
from tests.servers.fixtures import FreshUrl

REQUESTS = 1_500
TEXTS = (
    "", "a", "order", "\0", "a\0b", "n" * 129, "k" * 600, "'; DROP TABLE txc_global; --", "\\", "\\'", "%s %(x)s {0}",
    "\U0001f980" * 128, "\u202e\ufffe", "line\nline\r\t", STOCK, BALANCE, "db@1", "default.000000001.00000001",
)  # fmt: skip
NUMBERS = (0, 1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
BYTES = (b"", b"\0", b"'\\\0\x1a\n", bytes(range(256)), b"\xff" * 3000)
KINDS = [field.name for field in pb.Request.DESCRIPTOR.oneofs_by_name["body"].fields]


class Oddity:
    """Makes messages from a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.xids: list[str] = []

    def request(self, number: int) -> pb.Request:
        request = pb.Request(id=number)
        kind = self.chance.choice([kind for kind in KINDS if kind != "hello"] + ["register", "report", "answer"])
        getattr(request, kind).SetInParent()
        self.fill(getattr(request, kind))
        return request

    def answer(self, xid: str, branch_id: int) -> pb.Request:
        """A second phase did not succeed, for an odd reason."""
        result = self.chance.choice([pb.COMMAND_RETRY, pb.COMMAND_UNAVAILABLE, pb.COMMAND_PARK])
        message = pb.AnswerRequest(xid=xid, branch_id=branch_id, result=result)
        message.code, message.error = self.chance.choice(TEXTS), self.chance.choice(TEXTS)
        return pb.Request(id=1 << 41, answer=message)

    def fill(self, message: Message) -> None:
        for field in message.DESCRIPTOR.fields:
            if self.chance.random() < 0.25:
                continue
            if hasattr(getattr(message, field.name), "extend"):
                getattr(message, field.name).extend(self.value(field) for _ in range(self.chance.choice([0, 1, 1, 2, 5])))
            elif field.type == FieldDescriptor.TYPE_MESSAGE:
                getattr(message, field.name).SetInParent()
                self.fill(getattr(message, field.name))
            else:
                setattr(message, field.name, self.value(field))

    def value(self, field: Any) -> Any:
        chance = self.chance
        if field.name in ("xid", "xids") and self.xids and chance.random() < 0.7:
            return chance.choice(self.xids)
        if field.name == "resource" and chance.random() < 0.7:
            return chance.choice([STOCK, BALANCE, "db@1"])
        if field.name == "lock_wait_ms":
            return chance.choice([0, 1, 500])
        if field.name == "branch_id" and chance.random() < 0.7:
            return chance.randrange(1, 10)
        match field.type:
            case FieldDescriptor.TYPE_STRING:
                return chance.choice(TEXTS)
            case FieldDescriptor.TYPE_BYTES:
                return chance.choice(BYTES)
            case FieldDescriptor.TYPE_BOOL:
                return chance.random() < 0.5
            case FieldDescriptor.TYPE_ENUM:
                return chance.choice([0, 1, 2, 3, 4, 5, 6, 99])
            case FieldDescriptor.TYPE_UINT32:
                return chance.choice([n for n in NUMBERS if n < 2**32])
            case _:
                return chance.choice(NUMBERS)


async def exchange(address: str, oddity: Oddity) -> int:
    """Send everything over one stream; returns how many requests were answered."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(
            "/txcoord.v1.Coordinator/Session",
            request_serializer=pb.ClientBatch.SerializeToString,
            response_deserializer=pb.ServerBatch.FromString,
        )()
        hello = pb.Hello(protocol_min=1, protocol_max=1, service="odd", instance="i\0" * 100, resources=[STOCK, BALANCE, "db@1"])
        await call.write(pb.ClientBatch(requests=[pb.Request(id=1 << 40, hello=hello)]))
        waiting: set[int] = set()
        answered = 0
        for number in range(1, REQUESTS + 1):
            request = oddity.request(number)
            if request.WhichOneof("body") not in ("report",):  # acknowledged by branch id
                waiting.add(number)
            await call.write(pb.ClientBatch(requests=[request], done_xids=["\0"], done_branches=[2**64 - 1]))
            if number % 200 == 0 or number == REQUESTS:
                until = len(waiting) // 5 if number < REQUESTS else 0
                while len(waiting) > until:
                    batch = await asyncio.wait_for(call.read(), 20)
                    assert batch is not grpc.aio.EOF
                    heard = {e.id for e in batch.events} | set(batch.ok) | set(batch.settled) | set(batch.begun)
                    answered += len(waiting & heard)
                    waiting -= heard
                    oddity.xids.extend(batch.begun_xids[:3])
                    rows = (row for commands in batch.commands for row in zip(commands.xids, commands.branch_ids))
                    await call.write(pb.ClientBatch(requests=[oddity.answer(*row) for row in rows]))
                    assert not [e.error for e in batch.events if e.error.code == "INTERNAL"]
        return answered


@pytest.mark.parametrize("store", ["sqlite", "postgres", "mariadb"])
def test_nothing_that_a_client_sends_stops_the_coordinator(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/c.db"
    if store != "sqlite":
        fresh: FreshUrl = request.getfixturevalue(f"fresh_{store}_url")
        url = fresh()
    with CoordinatorProcess(url, options=("--log-level", "warning")) as coordinator, Stub(coordinator.address) as calm:
        before = calm.prepared()
        answered = asyncio.run(exchange(coordinator.address, Oddity(len(store))))
        assert answered > REQUESTS / 2
        for service in ("s" * 129, "s" * 5000):
            with Stub(coordinator.address, service) as nameless, pytest.raises(Exception, match=r"service has \d+ characters"):
                nameless.begin()
        assert calm.commit(before).status == pb.COMMITTING, "the epoch and its memory are those of the start"
        assert calm.commit(calm.prepared()).status == pb.COMMITTING
        for word in ("defect", "unknown", "takes no commits"):
            assert word not in coordinator.log()
