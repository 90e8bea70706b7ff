"""`txcoord bench`: how fast a coordinator is on one's own store and machine."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import grpc
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError
from txcoord_proto.errors import ConfigurationError, TxcoordError
from txcoord_proto.terminal import PEM

from txcoord_server.bench.load import Load, Result
from txcoord_server.bench.machine import Calibration, calibrate
from txcoord_server.bench.process import coordinator
from txcoord_server.store.open import open_store

IN_FLIGHT = 256
_WARM = 4_000


@dataclass(frozen=True, slots=True)
class Findings:
    """What was measured: one value a run.

    Args:
        where: What it was measured on.
        per_second: Global transactions a second, many in flight.
        p99_ms: Of them, from begin to the answer of commit.
        alone_p50_ms, alone_p99_ms: With one in flight.
        transactions: So many were run and told to be committed.
        before, after: What the machine was like.
    """

    where: str
    per_second: list[float]
    p99_ms: list[float]
    alone_p50_ms: list[float]
    alone_p99_ms: list[float]
    transactions: int
    before: Calibration
    after: Calibration

    def table(self) -> str:
        """For people: medians, with the slowest and the fastest run."""
        rows = (
            (f"global transactions/s, {IN_FLIGHT} in flight", self.per_second, "{:,.0f}"),
            (f"p99 ms, {IN_FLIGHT} in flight", self.p99_ms, "{:.2f}"),
            ("p50 ms, one in flight", self.alone_p50_ms, "{:.2f}"),
            ("p99 ms, one in flight", self.alone_p99_ms, "{:.2f}"),
        )
        lines = [f"{self.where}", f"{'':42} {'median':>10} {'min':>10} {'max':>10}"]
        for name, values, form in rows:
            numbers = [form.format(v) for v in (statistics.median(values), min(values), max(values))]
            lines.append(f"{name:42} {numbers[0]:>10} {numbers[1]:>10} {numbers[2]:>10}")
        return "\n".join([*lines, f"machine before: {self.before}", f"machine after:  {self.after}"])

    def as_dict(self) -> dict[str, object]:
        """For programs."""
        return dataclasses.asdict(self)


@click.command("bench", short_help="Measure this machine and store.", context_settings={"show_default": True})
@click.option("--store", help="SQLAlchemy URL of the store to measure; none: a new SQLite file in this folder.")
@click.option("--address", help="HOST:PORT of a running coordinator to measure instead; it keeps what is written.")
@click.option("--token", envvar="TXCOORD_TOKEN", default="", help="Token for that coordinator.", show_default=False)
@click.option("--tls-ca", type=PEM, help="CA of its certificate, PEM.")
@click.option("--transactions", default=20_000, type=click.IntRange(min=IN_FLIGHT), help="Global transactions of one run.")
@click.option("--runs", default=3, type=click.IntRange(min=1), help="Runs; the table shows their medians.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench_command(
    store: str | None, address: str | None, token: str, tls_ca: Path | None, transactions: int, runs: int, as_json: bool
) -> None:
    """Measure global transactions of two branches with a lock each, from begin to the last second phase.

    The load comes from this very machine and competes for its processors.
    """
    if store and address:
        raise click.UsageError("--store starts a coordinator, --address names a running one: give one of them")
    credentials = grpc.ssl_channel_credentials(tls_ca.read_bytes()) if tls_ca is not None else None
    say: Callable[[str], None] = lambda line: click.echo(line, err=True)  # noqa: E731
    try:
        with _target(store, address, say) as (where, target, directory):
            before = calibrate(directory)
            load = _Loads(target, token, credentials, say)
            busy, alone = asyncio.run(load.run(transactions, runs))
            findings = _findings(where, busy, alone, before, calibrate(directory))
    except (TxcoordError, ConnectionError, grpc.RpcError) as error:
        say(str(error.details()) if isinstance(error, grpc.Call) else str(error))
        sys.exit(1)
    click.echo(json.dumps(findings.as_dict(), indent=1) if as_json else findings.table())


@contextmanager
def _target(store: str | None, address: str | None, say: Callable[[str], None]) -> Iterator[tuple[str, str, str | None]]:
    """What is measured: its name, its address, and the folder whose disk it uses where that is known."""
    if address:
        say(f"warning: this writes global transactions of a service `bench` to the coordinator at {address}")
        yield f"coordinator at {address}", address, None
        return
    group = f"bench-{secrets.token_hex(6)}"
    if store is None:
        with (
            tempfile.TemporaryDirectory(prefix="txcoord-bench-", dir=".") as directory,
            coordinator(f"sqlite:///{directory}/bench.db", group) as found,
        ):
            yield f"SQLite in {Path.cwd()}", found, directory
        return
    say(f"writing to {_shown(store)} as group {group}; it is removed at the end")
    started = False
    try:
        with coordinator(store, group) as found:
            started = True
            yield _shown(store), found, _folder(store)
    finally:
        if started:
            asyncio.run(_forget(store, group))


def _shown(store: str) -> str:
    try:
        return make_url(store).render_as_string(hide_password=True)
    except ArgumentError as error:
        raise ConfigurationError(f"the store's URL cannot be read: {error}") from error


def _folder(store: str) -> str | None:
    url = make_url(store)
    return str(Path(url.database).absolute().parent) if url.get_backend_name() == "sqlite" and url.database else None


async def _forget(store: str, group: str) -> None:
    opened = open_store(store, group)
    await opened.forget()
    await opened.stop()


class _Loads:
    """Drives load against one coordinator, saying how far it is."""

    def __init__(self, address: str, token: str, credentials: grpc.ChannelCredentials | None, say: Callable[[str], None]) -> None:
        self._address = address
        self._token = token
        self._credentials = credentials
        self._say = say

    async def run(self, transactions: int, runs: int) -> tuple[list[Result], list[Result]]:
        """All runs: with many in flight, and with one."""
        self._say("warming up ...")
        await self._one(IN_FLIGHT, min(_WARM, transactions))
        busy, alone = [], []
        for number in range(1, runs + 1):
            busy.append(await self._one(IN_FLIGHT, transactions))
            alone.append(await self._one(1, max(50, transactions // 25)))
            rate, latency = busy[-1].per_second, alone[-1].percentile(0.5)
            self._say(f"run {number} of {runs}: {rate:,.0f}/s with {IN_FLIGHT} in flight, {latency:.2f} ms with one")
        return busy, alone

    async def _one(self, in_flight: int, total: int) -> Result:
        return await Load(in_flight, total).run(self._address, self._token, self._credentials)


def _findings(where: str, busy: list[Result], alone: list[Result], before: Calibration, after: Calibration) -> Findings:
    return Findings(
        where,
        [r.per_second for r in busy],
        [r.percentile(0.99) for r in busy],
        [r.percentile(0.5) for r in alone],
        [r.percentile(0.99) for r in alone],
        sum(len(r.committed) for r in (*busy, *alone)),
        before,
        after,
    )
