"""An action: a try with its confirm and cancel, and what has to fit between the three. It runs nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from txcoord_proto.errors import ConfigurationError

from txcoord_sdk.codec import ArgumentPlan
from txcoord_sdk.tcc.signature import TccSignature

Fence: TypeAlias = Literal["auto", "row", "intent"] | None


class Action:
    """One TCC action of a service.

    Args:
        name: Of the action, unique in the service.
        attempt: The try.
        fence: `row`: a fence row in the try's local transaction; `intent`: one that is committed before the try runs; None: none;
            `auto`: a row where the try has a database parameter.
        database_name: Which bound database, where there are several.

    Raises:
        ConfigurationError: The function cannot be a try.
    """

    def __init__(self, name: str, attempt: Callable[..., Any], fence: Fence, database_name: str) -> None:
        self.name = name
        self.attempt = TccSignature.of(attempt, name)
        self.fence: Fence = fence
        if fence == "auto":
            self.fence = "row" if self.attempt.database else None
        self.database_name = database_name
        self.plan = ArgumentPlan(name, self.attempt.carried)
        self.confirm: TccSignature | None = None
        self.cancel: TccSignature | None = None
        if fence == "row" and not self.attempt.database:
            raise ConfigurationError(
                f"{name}: fence='row' stands in the try's local transaction, and the try has no parameter annotated Connection "
                "or Session: add one, or use fence='intent'"
            )

    @property
    def uses_database(self) -> bool:
        """Whether a database is needed, for its fence or its parameter."""
        return bool(self.attempt.database) or self.fence is not None

    @property
    def parts(self) -> tuple[TccSignature, TccSignature]:
        """Confirm and cancel.

        Raises:
            ConfigurationError: One is missing.
        """
        if self.confirm is None or self.cancel is None:
            part = "confirm" if self.confirm is None else "cancel"
            raise ConfigurationError(
                f"{self.name} has no {part}: every try needs both; one that has nothing to do is an empty function"
            )
        return self.confirm, self.cancel

    def take(self, part: Literal["confirm", "cancel"], function: Callable[..., Any]) -> None:
        """Take confirm or cancel in.

        Raises:
            ConfigurationError: It is there already, or its parameters are not the try's.
        """
        if getattr(self, part) is not None:
            raise ConfigurationError(f"{self.name} has a {part} already")
        signature = TccSignature.of(function, self.name)
        strange = sorted(signature.carried.keys() - self.attempt.carried.keys() - signature.defaults.keys())
        if strange:
            raise ConfigurationError(
                f"{self.name}: {part} wants {strange}, which the try does not have; arguments travel by name, so use those of "
                f"the try: {list(self.attempt.carried)}"
            )
        if signature.database and not self.uses_database:
            raise ConfigurationError(
                f"{self.name}: {part} uses the database and the try does not: give the try a database parameter or fence='intent'"
            )
        if signature.is_method is not self.attempt.is_method:
            raise ConfigurationError(f"{self.name}: {part} and the try must both be methods of one class, or neither")
        setattr(self, part, signature)

    def check_engine(self, is_async: bool) -> None:
        """Refuse functions that the bound engine cannot serve.

        Args:
            is_async: Whether it is an AsyncEngine.

        Raises:
            ConfigurationError: A try is async and the engine is not, or the reverse; or confirm or cancel is async and it is not.
        """
        engine = "AsyncEngine" if is_async else "Engine"
        if self.attempt.is_async is not is_async:
            wanted = "a plain function" if not is_async else "an async function"
            raise ConfigurationError(
                f"{self.name}: client.bind was given an {engine}, so the try must be {wanted}; or bind another"
            )
        if not is_async and any(part.is_async for part in self.parts):
            raise ConfigurationError(
                f"{self.name}: client.bind was given an {engine}, so confirm and cancel must be plain functions"
            )

    def resource(self, service: str, database_id: str) -> str:
        """Its resource name, `service:action@database-id`; `-` stands for no database."""
        return f"{service}:{self.name}@{database_id or '-'}"
