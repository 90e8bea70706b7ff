"""A running coordinator as the commands reach it: addresses, token, TLS, following the leader, and how errors end a command."""

from __future__ import annotations

import functools
import getpass
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import grpc
from google.protobuf.message import Message
from txcoord_proto.errors import CoordinatorUnreachableError, NotLeaderError, NotReadyError, TxcoordError, from_wire
from txcoord_proto.headers import AUTHORIZATION, ERROR_DETAIL, SERVICE
from txcoord_proto.terminal import CREDENTIALS, as_json, errors_end_it
from txcoord_proto.v1 import coordinator_pb2 as pb

from txcoord_server.commands.channel import Tls, open_channel

R = TypeVar("R", bound=Message)

_PAUSE = 0.2
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1)]


class Coordinator:
    """Calls the service `Operator` of whichever node leads.

    Args:
        addresses: `host:port` of coordinators, in the order in which they are tried.
        token: Of the operator; empty: none.
        tls: TLS; None: in the clear.
        timeout: Seconds that a command waits for an answer.
    """

    def __init__(self, addresses: tuple[str, ...], token: str, tls: Tls | None, timeout: float) -> None:
        self.addresses = addresses
        self._metadata = [(AUTHORIZATION, f"Bearer {token}")] if token else [(SERVICE, _myself())]
        self._tls = tls
        self._timeout = timeout

    def call(self, method: str, request: Message, reply: type[R]) -> R:
        """Ask the leader.

        Raises:
            CoordinatorUnreachableError: Nobody that leads has answered in time.
            TxcoordError: What was asked for is refused.
        """
        until = time.monotonic() + self._timeout
        while True:
            silent: dict[str, str] = {}
            waiting = False
            pending = list(self.addresses)
            for address in pending:  # grows by the leaders that standbys name
                try:
                    return self.ask(address, method, request, reply, max(0.1, until - time.monotonic()))
                except NotLeaderError as error:
                    leader = error.details.get("leader", "")
                    if leader and leader not in pending:
                        pending.append(leader)
                    silent[address] = error.message
                    waiting = True
                except NotReadyError as error:
                    silent[address] = error.message
                    waiting = True
                except CoordinatorUnreachableError as error:
                    silent[address] = error.message
            if not waiting or time.monotonic() + _PAUSE >= until:
                listed = "; ".join(f"{address}: {why}" for address, why in silent.items())
                raise CoordinatorUnreachableError(f"no coordinator that leads has answered: {listed}")
            time.sleep(_PAUSE)

    def ask(self, address: str, method: str, request: Message, reply: type[R], timeout: float = 0.0) -> R:
        """Ask one node.

        Raises:
            CoordinatorUnreachableError: It does not answer.
            TxcoordError: What it answers when it does not do as asked.
        """
        channel = open_channel(address, self._tls, _OPTIONS)
        call: Any = channel.unary_unary(
            f"/txcoord.v1.Operator/{method}",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        try:
            answer: R = call(request, metadata=self._metadata, timeout=timeout or self._timeout)
        except grpc.RpcError as error:
            raise _typed(error) from error
        finally:
            channel.close()
        return answer


def _myself() -> str:
    """Who acts, for the audit, where no token says it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}".encode("ascii", "replace").decode()[:128]


def _typed(error: Any) -> TxcoordError:
    for name, value in error.trailing_metadata() or ():
        if name == ERROR_DETAIL:
            detail = pb.Error.FromString(value)
            return from_wire(detail.code, detail.message, dict(detail.details))
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return CoordinatorUnreachableError("no answer in time; whether an act was done, `txcoord show XID` tells")
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return CoordinatorUnreachableError("it is no coordinator, or an older one without this service")
    return CoordinatorUnreachableError(f"{error.code().name}: {error.details()}")


# ---------------------------------------------------------------- options


def _addresses(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    addresses = tuple(a.strip() for a in value.split(",") if a.strip())
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise click.BadParameter(f"{address!r} is no address of a coordinator: write host:port")
    if not addresses:
        raise click.BadParameter("write host:port, several separated by commas")
    return addresses


_CONNECTION = (
    click.option(
        "--address", default="127.0.0.1:8190", envvar="TXCOORD_ADDRESS", callback=_addresses, show_default=True, show_envvar=True,
        help="HOST:PORT of coordinators, several separated by commas.",
    ),
    *CREDENTIALS,
    click.option("--timeout", default=10.0, show_default=True, help="Seconds to wait for an answer."),
)  # fmt: skip


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command its coordinator, from options and environment, as its first argument `coordinator`."""

    @functools.wraps(command)
    def run(
        *, address: tuple[str, ...], token: str, tls: bool, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None,
        tls_server_name: str, timeout: float, **kwargs: Any,
    ) -> None:  # fmt: skip
        found = Coordinator(address, token, Tls.wanted(tls, tls_ca, tls_cert, tls_key, tls_server_name), timeout)
        errors_end_it(command)(coordinator=found, **kwargs)

    for option in reversed(_CONNECTION):
        run = option(run)
    return as_json(run)
