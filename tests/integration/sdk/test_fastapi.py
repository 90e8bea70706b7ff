"""Decorated functions as FastAPI's endpoints and dependencies: the signature is what FastAPI works with."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, Header
from pydantic import BaseModel
from txcoord_sdk import Client

from tests.integration.sdk.conftest import Ledger, atake_part, take_part
from tests.integration.sdk.services import here, serving


class Order(BaseModel):
    """What is ordered."""

    sku: str
    quantity: int = 1


class Receipt(BaseModel):
    """What the caller sees."""

    xid: str
    amount: Decimal


class Price(Receipt):
    """What he does not see."""

    cost: Decimal = Decimal(1)


def price(sku: str = "a") -> Decimal:
    """A dependency with a parameter of its own."""
    return Decimal("9.50") if sku == "a" else Decimal(2)


@pytest.fixture
def shop(client: Client, ledger: Ledger) -> Iterator[str]:
    """An application whose endpoints are global transactions; gives its URL."""
    app = FastAPI()

    @client.global_transaction(name="audited")
    async def audited(user: Annotated[str, Header()]) -> str:
        """A dependency that is a transaction of its own."""
        await atake_part(here(), ledger)
        return f"{user} {here().known_xid}"

    @app.post("/orders", response_model=Receipt, status_code=201)
    @client.global_transaction(key="order:{order.sku}")
    async def place(order: Order, amount: Annotated[Decimal, Depends(price)]) -> Price:
        await atake_part(here(), ledger)
        return Price(xid=here().known_xid, amount=amount * order.quantity)

    @app.post("/threaded")
    @client.global_transaction
    def threaded(order: Order) -> Receipt:
        take_part(here(), ledger)
        return Receipt(xid=here().known_xid, amount=Decimal(order.quantity))

    @app.get("/audit")
    async def audit(seen: str = Depends(audited)) -> str:
        return seen

    with serving(app) as url:
        yield url


def test_endpoints(shop: str, client: Client, ledger: Ledger) -> None:
    answer = httpx.post(f"{shop}/orders?sku=a", json={"sku": "a", "quantity": 2})
    assert answer.status_code == 201
    assert answer.json().keys() == {"xid", "amount"}, "the response model hides the cost"
    assert answer.json()["amount"] == "19.00"
    assert ledger.ends(answer.json()["xid"]) == [True]
    assert client.status(key="order:a").xid == answer.json()["xid"]
    answer = httpx.post(f"{shop}/threaded", json={"sku": "b"})
    assert ledger.ends(answer.json()["xid"]) == [True]


def test_validation_comes_before_the_transaction(shop: str, ledger: Ledger) -> None:
    answer = httpx.post(f"{shop}/orders", json={"quantity": 2})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "sku"]
    assert not ledger.settled


def test_a_dependency(shop: str, ledger: Ledger) -> None:
    user, xid = httpx.get(f"{shop}/audit", headers={"user": "ada"}).json().split()
    assert user == "ada"
    assert ledger.ends(xid) == [True]
    assert httpx.get(f"{shop}/audit").status_code == 422


def test_the_description_of_the_interface_is_complete(shop: str) -> None:
    described = httpx.get(f"{shop}/openapi.json").json()
    body = described["paths"]["/orders"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["$ref"].endswith("/Order")
    assert [p["name"] for p in described["paths"]["/orders"]["post"]["parameters"]] == ["sku"]
