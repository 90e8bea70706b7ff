"""Who is calling: tokens, their services, resources and roles.

Tokens are kept as SHA-256 hashes in the store; several may be valid for a service at once, so that one can be replaced without an
outage. Without a token in the store everybody is let in under the name that he gives, as an operator too, where only this machine
reaches the coordinator (or `--insecure` says so); where others reach it, nobody is let in without one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from txcoord_proto.errors import NotReadyError, RoleDeniedError, UnauthenticatedError

from txcoord_server.domain.limits import MAX_SERVICE, check_text
from txcoord_server.domain.tokens import Token
from txcoord_server.engine.connection import Principal


def new_token() -> str:
    """A fresh token: 32 random bytes."""
    return "txc_" + secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What the store keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class Authenticator:
    """Turns tokens into principals.

    Args:
        always: Whether callers need a token even while the store holds none.
    """

    def __init__(self, always: bool) -> None:
        self._always = always
        self._tokens: dict[str, Token] = {}
        self.loaded = False
        """Whether the store's tokens are known."""

    @property
    def has_tokens(self) -> bool:
        """Whether the store holds any."""
        return bool(self._tokens)

    @property
    def required(self) -> bool:
        """Whether callers need a token."""
        return self._always or self.has_tokens

    def load(self, tokens: Iterable[Token]) -> None:
        """Replace the known tokens by those of the store; until the first time nobody is let in."""
        self.loaded = True
        self._tokens = {token.hash: token for token in tokens}

    def knows(self, principal: Principal) -> bool:
        """Whether the token that once showed who `principal` is is still valid."""
        return not self.required or any(
            t.name == principal.name and t.service == principal.service for t in self._tokens.values()
        )

    def principal(self, token: str, service: str) -> Principal:
        """The principal behind a token.

        Args:
            token: As sent; empty: none.
            service: The service that the caller says it is; with a token it must agree, or be empty.

        Raises:
            InvalidArgumentError: The service's name is too long.
            UnauthenticatedError: A token is required and this is none, or it belongs to another service.
            NotReadyError: The tokens have not been read yet.
        """
        if not self.loaded:
            raise NotReadyError("this coordinator has not read its tokens yet: its store has not answered; ask again")
        check_text("service", service, MAX_SERVICE)
        if not self.required:
            return Principal(service or "anonymous", service or "anonymous", operator=True)
        hashed = token_hash(token)
        known = next((t for h, t in self._tokens.items() if hmac.compare_digest(h, hashed)), None)
        if known is None:
            raise UnauthenticatedError(
                "this coordinator requires a token that it knows: make one with `txcoord token add`, and give it to the client "
                "as token= or TXCOORD_TOKEN"
            )
        if service and service != known.service:
            raise UnauthenticatedError(f"the token {known.name!r} belongs to service {known.service}, not to {service}")
        return Principal(known.service, known.name, known.resources, known.role == "operator")


def require_operator(principal: Principal) -> None:
    """Refuse everybody but operators.

    Raises:
        RoleDeniedError: The principal lacks the role.
    """
    if not principal.operator:
        raise RoleDeniedError(f"{principal.name} may look but not act: use a token made with `txcoord token add --role operator`")
