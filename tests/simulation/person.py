"""A person who retries what is parked, and now and then decides a transaction that is open, through the real service."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager

from txcoord_proto.errors import TxcoordError
from txcoord_proto.status import Decision, GlobalStatus
from txcoord_proto.v1 import coordinator_pb2 as pb
from txcoord_proto.v1 import operator_pb2 as op
from txcoord_server.engine.connection import Principal
from txcoord_server.engine.engine import Engine
from txcoord_server.rpc.operator import OperatorService

from tests.simulation.business import Outsiders
from tests.simulation.witness import Witness

_PARKED: int = pb.GlobalStatus.Value(GlobalStatus.PARKED)
_WHO = Principal("", "person", ("*",), operator=True)


class Person:
    """See the module.

    Args:
        rng: Chance.
        witness: Hears which acts were answered.
        outsiders: By whom rows are repaired before a rollback is tried again.
    """

    def __init__(self, rng: random.Random, witness: Witness, outsiders: Outsiders) -> None:
        self._rng = rng
        self._outsiders = outsiders
        self._witness = witness
        self._service = OperatorService("node", "store")

    async def look_after(self, engine: Engine, decides: bool) -> None:
        """Look once, think, and act on what was seen; it may have changed meanwhile.

        Args:
            engine: Of the coordinator that was asked, in whose process this runs; it may be of the past.
            decides: Whether open transactions may be decided.
        """
        with _refused():
            shown = await self._service.list(op.ListRequest(), engine, _WHO)
            await asyncio.sleep(self._rng.expovariate(5))
            for seen in shown.transactions:
                if seen.status == _PARKED:
                    if seen.decision == Decision.ROLLBACK:
                        self._outsiders.repair(seen.xid)
                    await self._retry(engine, seen)
                elif decides and seen.status == pb.ACTIVE and self._rng.random() < 0.05:
                    await self._force(engine, seen)

    async def _retry(self, engine: Engine, seen: pb.Transaction) -> None:
        with _refused():
            asked = op.RetryRequest(xid=seen.xid, version=seen.version, reason="it has been repaired")
            await self._service.retry(asked, engine, _WHO)
            self._witness.acts.append((seen.xid, seen.version, "RETRY"))

    async def _force(self, engine: Engine, seen: pb.Transaction) -> None:
        commit = self._rng.random() < 0.5
        with _refused():
            asked = op.ForceRequest(xid=seen.xid, commit=commit, version=seen.version, reason="it cannot wait")
            await self._service.force(asked, engine, _WHO)
            self._witness.acts.append((seen.xid, seen.version, "FORCE_COMMIT" if commit else "FORCE_ROLLBACK"))


@contextmanager
def _refused() -> Iterator[None]:
    """What is refused changes nothing, and the person looks again."""
    try:
        yield
    except TxcoordError:
        return
