"""The Prometheus endpoint: a collector that reads what the engine counts, in threads of its own.

A scrape runs beside the event loop and never on it. It reads plain integers, and copies the few dictionaries it needs in one
call each, which the loop cannot interrupt; what it shows is of one engine, though not of one instant. The reference page is
rendered from `METRICS`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from itertools import accumulate
from typing import Literal
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from txcoord_proto.errors import ConfigurationError

from txcoord_server.config import Endpoint
from txcoord_server.domain.transitions import FINAL
from txcoord_server.engine.counters import Histogram
from txcoord_server.engine.dispatcher import Resource
from txcoord_server.engine.node import Node

NAMED_RESOURCES = 100
OTHERS = "other"


class Sight:
    """What one scrape looks at: one node, and the engine that served when it began.

    Args:
        node: The coordinator.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.counters = node.counters
        self.engine = node.engine

    @property
    def epoch(self) -> int:
        """The epoch it leads in; of a standby, the one that it has seen."""
        return self.engine.lease.epoch if self.engine is not None else self.node.epoch_seen

    @property
    def oldest(self) -> float:
        """Seconds since the oldest unfinished transaction was begun."""
        while self.engine is not None:
            try:
                first = next(iter(self.engine.ledger.by_xid.values()), None)
            except RuntimeError:  # it changed between the two calls
                continue
            return max(0.0, (self.engine.now() - first.begun_at) / 1000) if first is not None else 0.0
        return 0.0

    @cached_property
    def resources(self) -> list[Resource]:
        """Every resource, the busiest first."""
        if self.engine is None:
            return []
        return sorted(list(self.engine.dispatcher.resources.values()), key=lambda r: r.waiting + r.in_flight, reverse=True)

    def by_resource(self, value: Callable[[Resource], int]) -> dict[tuple[str, ...], float]:
        """A value of the busiest resources by name, and the sum of all others: their names come from clients."""
        found: dict[tuple[str, ...], float] = {(r.name,): value(r) for r in self.resources[:NAMED_RESOURCES]}
        if len(self.resources) > NAMED_RESOURCES:
            found[OTHERS,] = sum(map(value, self.resources[NAMED_RESOURCES:]))
        return found

    def transactions(self) -> dict[tuple[str, ...], float]:
        """Unfinished transactions by status."""
        if self.engine is None:
            return {}
        counts = self.engine.ledger.unfinished.copy()
        return {(status.value,): count for status, count in counts.items() if status not in FINAL}


Value = float | Histogram | Mapping[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Shown:
    """One metric.

    Args:
        name: Without the suffix that its kind adds.
        kind: Prometheus' type.
        text: What it says.
        read: Its value or values, or None where there is none at present.
        labels: Names of its labels; then `read` gives values by them.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    read: Callable[[Sight], Value | None]
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """As it is scraped."""
        return self.name + ("_total" if self.kind == "counter" else "")

    def family(self, sight: Sight) -> Metric:
        """Its samples."""
        value = self.read(sight)
        if isinstance(value, Histogram):
            return _histogram(self, value)
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = kind(self.name, self.text, labels=self.labels)
        values = value if isinstance(value, Mapping) else {} if value is None else {(): value}
        for labels, number in values.items():
            family.add_metric(labels, number)
        return family


def _histogram(shown: Shown, histogram: Histogram) -> Metric:
    counts = list(histogram.counts)
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    return HistogramMetricFamily(
        shown.name, shown.text, buckets=list(zip(bounds, accumulate(counts), strict=True)), sum_value=histogram.total
    )


METRICS = (
    Shown(
        "txcoord_node_info", "gauge", "Always 1; who this is.",
        lambda s: {(s.node.config.group, s.node.name, version("txcoord")): 1}, ("group", "node", "version"),
    ),
    Shown("txcoord_leader", "gauge", "1 while this node leads its group, 0 while it stands by.", lambda s: s.engine is not None),
    Shown(
        "txcoord_serving", "gauge", "1 while this node leads and its store takes commits.",
        lambda s: s.engine is not None and not s.engine.trouble,
    ),
    Shown("txcoord_epoch", "gauge", "Epoch in which this node leads, or which a standby has seen last.", lambda s: s.epoch),
    Shown(
        "txcoord_commit_seq", "gauge", "Number of the last group commit of the group; only the leader shows it.",
        lambda s: s.engine.commit_seq if s.engine else None,
    ),
    Shown("txcoord_takeovers", "counter", "Times this process became the leader.", lambda s: s.counters.takeovers),
    Shown(
        "txcoord_fenced", "counter", "Times this process was the leader and found that another one leads.",
        lambda s: s.counters.fenced,
    ),
    Shown(
        "txcoord_unknown_commits", "counter", "Group commits whose outcome was unknown; each leads to a new epoch.",
        lambda s: s.counters.unknown_commits,
    ),
    Shown(
        "txcoord_store_failures", "counter", "Tries of a group commit that the store certainly did not take.",
        lambda s: s.counters.store_failures,
    ),
    Shown(
        "txcoord_defects",
        "counter",
        "Times this process threw its memory away and read the store anew because of an error in its own code.",
        lambda s: s.counters.defects,
    ),
    Shown("txcoord_transactions_begun", "counter", "Global transactions begun here.", lambda s: s.counters.begun),
    Shown(
        "txcoord_transactions_unfinished", "gauge", "Global transactions that are not finished, by status.",
        Sight.transactions, ("status",),
    ),
    Shown(
        "txcoord_oldest_unfinished_seconds", "gauge", "Age of the oldest unfinished global transaction, 0 when there is none.",
        lambda s: s.oldest,
    ),
    Shown(
        "txcoord_decisions", "counter",
        "Decisions that are durable. A transaction that times out before its first branch is dropped without one.",
        lambda s: s.counters.decisions.copy(), ("decision", "reason"),
    ),
    Shown("txcoord_branches_registered", "counter", "Branches whose registration is durable.", lambda s: s.counters.branches),
    Shown("txcoord_locks_held", "gauge", "Global locks that are held.", lambda s: s.engine.ledger.locks.count if s.engine else 0),
    Shown(
        "txcoord_lock_waiters", "gauge", "Registrations that wait for a global lock.",
        lambda s: s.engine.ledger.locks.waiters if s.engine else 0,
    ),
    Shown(
        "txcoord_second_phases_in_flight", "gauge", "Commands of the second phase that were sent and are not answered.",
        lambda s: s.by_resource(lambda r: r.in_flight), ("resource",),
    ),
    Shown(
        "txcoord_second_phases_waiting", "gauge", "Commands of the second phase that are due or wait for their next try.",
        lambda s: s.by_resource(lambda r: r.waiting), ("resource",),
    ),
    Shown(
        "txcoord_resource_processes", "gauge", "Connected processes that do second phases of a resource.",
        lambda s: s.by_resource(lambda r: len(r.connections)), ("resource",),
    ),
    Shown(
        "txcoord_second_phase_retries", "counter", "Commands of the second phase that were sent again, by branch.",
        lambda s: s.counters.retries,
    ),
    Shown(
        "txcoord_branches_overdue", "gauge", "Branches whose second phase has failed so often that somebody should look.",
        lambda s: len(s.engine.ledger.overdue) if s.engine else 0,
    ),
    Shown("txcoord_sessions", "gauge", "Connected client processes.", lambda s: len(s.engine.connections) if s.engine else 0),
    Shown("txcoord_group_commits", "counter", "Group commits that are durable.", lambda s: s.counters.commits),
    Shown(
        "txcoord_group_commit_seconds", "histogram", "Time from handing a group to the store until it was durable.",
        lambda s: s.counters.commit_seconds,
    ),
    Shown("txcoord_group_commit_rows", "histogram", "Rows of a group commit.", lambda s: s.counters.commit_rows),
    Shown(
        "txcoord_purged", "counter", "XIDs whose outcome is no longer kept, as retention says.", lambda s: s.counters.purged,
    ),
)  # fmt: skip


class NodeCollector(Collector):
    """Shows a node to Prometheus; any thread may call it at any time.

    Args:
        node: The coordinator.
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterable[Metric]:
        """See `Collector.collect`."""
        sight = Sight(self._node)
        return [shown.family(sight) for shown in METRICS]


class MetricsServer:
    """The endpoint.

    Args:
        node: What it shows.
        endpoint: Where to listen.

    Raises:
        ConfigurationError: It cannot listen there.
    """

    def __init__(self, node: Node, endpoint: Endpoint) -> None:
        registry = CollectorRegistry()
        registry.register(NodeCollector(node))
        ProcessCollector(registry=registry)
        self._server: WSGIServer
        self._thread: threading.Thread
        try:
            self._server, self._thread = start_http_server(endpoint.port, endpoint.host, registry)
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(f"--metrics {endpoint}: it cannot listen there ({error})") from error
        self.url = f"http://{replace(endpoint, port=self._server.server_port)}/metrics"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
