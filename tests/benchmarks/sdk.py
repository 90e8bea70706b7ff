"""The whole SDK path: `@global_transaction` around two TCC branches without SQL, many at once, confirms in the same process."""

from __future__ import annotations

import asyncio
import time

from txcoord_sdk import Client, connect, tcc
from txcoord_sdk.testing import CoordinatorProcess

from tests.benchmarks.figure import Figure

CONCURRENT = 64
TRANSACTIONS = 6_000


def through_the_sdk(runs: int) -> list[Figure]:
    """Global transactions a second, from the decorator to the last confirm."""
    with CoordinatorProcess() as coordinator:
        rates = asyncio.run(_measure(coordinator.address, runs))
    return [Figure(f"transactions/s through the SDK, {CONCURRENT} concurrent", tuple(rates), 2_500, 5_000)]


async def _measure(address: str, runs: int) -> list[float]:
    client = connect(address, service="bench")
    confirmed = 0

    def action(name: str) -> object:
        @tcc(name, client=client)
        async def attempt(sku: str, quantity: int) -> None:
            """A try without effects."""

        @attempt.confirm
        async def _confirm(sku: str, quantity: int) -> None:
            nonlocal confirmed
            confirmed += 1

        @attempt.cancel
        async def _cancel(sku: str, quantity: int) -> None:
            """Nothing was done."""

        return attempt

    reserve, debit = action("stock.reserve"), action("balance.debit")

    @client.global_transaction(timeout=30)
    async def order(number: int) -> None:
        await reserve(sku=f"A-{number}", quantity=2)  # type: ignore[operator]
        await debit(sku=f"B-{number}", quantity=100)  # type: ignore[operator]

    async with client:
        await _run(client, order, 1_000)
        rates = []
        for _ in range(runs):
            before = confirmed
            started = time.perf_counter()
            await _run(client, order, TRANSACTIONS)
            while confirmed - before < 2 * TRANSACTIONS:
                await asyncio.sleep(0.001)
            rates.append(TRANSACTIONS / (time.perf_counter() - started))
            print(f"SDK: {rates[-1]:,.0f}/s", flush=True)
    return rates


async def _run(client: Client, order: object, total: int) -> None:
    assert callable(order)
    numbers = iter(range(total))

    async def work() -> None:
        for number in numbers:
            await order(number)

    await asyncio.gather(*(work() for _ in range(CONCURRENT)))
