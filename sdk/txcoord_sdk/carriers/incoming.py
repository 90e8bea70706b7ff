"""Which incoming calls take part in their callers' global transactions."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias

from txcoord_proto import headers
from txcoord_proto.errors import (
    ConfigurationError,
    ForeignXidError,
    MalformedXidError,
    NoTransactionError,
)
from txcoord_proto.xid import Xid

from txcoord_sdk.client import Client, default_client
from txcoord_sdk.transaction.isolation import isolation_of
from txcoord_sdk.transaction.transaction import GlobalTransaction

Trust: TypeAlias = Callable[[Any], bool] | Iterable[str] | None
"""Whose XIDs are taken: networks such as `10.0.0.0/8`, a function that is given the call as its carrier has it, or None: all."""

LONGEST = 24 * 3600.0


class Admission:
    """Lets calls into their callers' transactions, or not.

    Args:
        client: Of this service; None: the one that `connect` made last.
        trust: Whose XIDs are taken. Networks are compared with the address of the peer, which behind a proxy is the proxy's.
        strangers: What happens to a call with an XID from anybody else: `refuse` it, or serve it and `ignore` the XID.
        required: Refuse calls without an XID.

    Raises:
        ConfigurationError: `trust` holds something that is no network.
    """

    def __init__(
        self,
        client: Client | None,
        trust: Trust = None,
        strangers: Literal["refuse", "ignore"] = "refuse",
        required: bool = False,
    ) -> None:
        self._client = client
        self._trusts = _predicate(trust)
        self._ignores = strangers == "ignore"
        self._required = required

    @property
    def client(self) -> Client:
        """The client of this service."""
        return self._client or default_client()

    def transaction(
        self, xids: Sequence[str], timeout: str, peer: str, call: Any, isolation: str = ""
    ) -> GlobalTransaction | None:
        """The transaction that a call takes part in; None: none.

        Args:
            xids: Its `txcoord-xid` headers.
            timeout: Its `txcoord-timeout-ms` header, empty where there is none.
            peer: Address of the caller, empty where it is not known.
            call: It, as its carrier has it, for the function in `trust`.
            isolation: Its `txcoord-isolation` header, empty where there is none.

        Raises:
            MalformedXidError: There are several XIDs, or what there is is none.
            ForeignXidError: It comes from somebody whose XIDs are not taken.
            NoTransactionError: There is none and there must be one.
            ConfigurationError: There is no such isolation.
        """
        if not xids:
            if self._required:
                raise NoTransactionError(
                    f"this operation takes part in global transactions only: call it from one, with its XID in {headers.XID}"
                )
            return None
        if not self._trusts(peer, call):
            if self._ignores:
                return None
            raise ForeignXidError(
                f"this service takes no {headers.XID} from {peer or 'this caller'}: leave the header away, or have the service "
                "trust the caller"
            )
        if len(set(xids)) > 1:
            raise MalformedXidError(f"the call carries {len(xids)} different XIDs: it can take part in one transaction only")
        Xid.parse(xids[0])
        joined = self.client.joined_transaction(xids[0], _seconds(timeout))
        joined.isolation = isolation_of(isolation) if isolation else ""
        return joined


def _seconds(timeout: str) -> float:
    if not timeout.isascii() or not timeout.isdigit() or len(timeout) > 12:
        return math.inf  # the coordinator knows
    return min(LONGEST, int(timeout) / 1000)


def _predicate(trust: Trust) -> Callable[[str, Any], bool]:
    if trust is None:
        return lambda peer, call: True
    if callable(trust):
        function = trust
        return lambda peer, call: function(call)
    try:
        networks = [ipaddress.ip_network(network) for network in ([trust] if isinstance(trust, str) else trust)]
    except ValueError as error:
        raise ConfigurationError(f"trust={trust!r}: {error}; write networks such as '10.0.0.0/8', or a function") from error

    def is_inside(peer: str, call: Any) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in networks)

    return is_inside
