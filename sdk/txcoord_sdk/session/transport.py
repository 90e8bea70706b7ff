"""The way out of the process: the only seam through which the session talks to a coordinator."""

from __future__ import annotations

from typing import Protocol

from txcoord_proto.v1 import coordinator_pb2 as pb


class StreamBrokenError(Exception):
    """The stream ended; the text says how."""


class Stream(Protocol):
    """One open stream."""

    async def write(self, batch: pb.ClientBatch) -> None:
        """Send a batch; returns when it may be followed by another.

        Raises:
            StreamBrokenError: The stream ended.
        """

    async def read(self) -> pb.ServerBatch:
        """The next batch.

        Raises:
            StreamBrokenError: The stream ended.
        """

    async def close(self) -> None:
        """End it; never raises."""


class Transport(Protocol):
    """Opens streams."""

    async def open(self, address: str) -> Stream:
        """A stream to the coordinator at `address`.

        Raises:
            StreamBrokenError: It cannot be opened.
        """


class Rng(Protocol):
    """Chance, for jitter."""

    def random(self) -> float:
        """A number in [0, 1)."""
