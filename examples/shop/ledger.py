"""The driver's own view of the three databases: what is in them, and whether goods and money are conserved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Engine, Table, create_engine, event, func, insert, make_url, select, text, update

from examples.shop.balance.database import account
from examples.shop.modes import Pieces, Way, fences
from examples.shop.order.database import orders
from examples.shop.stock.database import stock

_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}


@dataclass(frozen=True, slots=True)
class Goods:
    """Pieces of one product."""

    free: int
    reserved: int
    sold: int
    ordered: int


@dataclass(frozen=True, slots=True)
class Totals:
    """The books at one moment; money is of all customers together."""

    goods: dict[str, Goods]
    at_hand: Decimal
    held: Decimal
    paid: Decimal
    owed: Decimal
    orders: dict[str, int]

    def pieces(self) -> dict[str, int]:
        """How many pieces of each product there are, wherever they are."""
        return {sku: g.free + g.reserved + g.sold for sku, g in self.goods.items()}

    def money(self) -> Decimal:
        """How much money there is, wherever it is."""
        return self.at_hand + self.held + self.paid


class Ledger:
    """Reads the books.

    Args:
        databases: URL by service.
        store: URL of the coordinator's store.
        ways: How each service takes part.
    """

    def __init__(self, databases: dict[str, str], store: str, ways: Mapping[str, Way]) -> None:
        self._ways = ways
        self._engines = {name: _engine(url) for name, url in databases.items()}
        self._store = _engine(store)

    def close(self) -> None:
        """Close all connections."""
        for engine in (*self._engines.values(), self._store):
            engine.dispose()

    def fill(self, products: dict[str, tuple[Decimal, int]], customers: dict[str, Decimal]) -> None:
        """Lay in goods, (price, pieces) by product, and money by customer."""
        with self._engines["stock"].begin() as c:
            c.execute(insert(stock), [{"sku": sku, "price": price, "free": n} for sku, (price, n) in products.items()])
        with self._engines["balance"].begin() as c:
            c.execute(insert(account), [{"customer": name, "balance": money} for name, money in customers.items()])

    def totals(self) -> Totals:
        """The books now; consistent when nothing is under way."""
        with self._engines["order"].connect() as c:
            counts = {status: n for status, n in c.execute(select(orders.c.status, func.count()).group_by(orders.c.status)).all()}
            placed = orders.c.status == "PLACED"
            ordered: dict[str, int] = {}
            by_sku = select(orders.c.sku, func.sum(orders.c.quantity)).where(placed).group_by(orders.c.sku)
            gifts = select(orders.c.gift, func.count()).where(placed, orders.c.gift.is_not(None)).group_by(orders.c.gift)
            for sku, pieces in [*c.execute(by_sku).all(), *c.execute(gifts).all()]:
                ordered[sku] = ordered.get(sku, 0) + int(pieces)
            owed = c.scalar(select(func.sum(orders.c.amount)).where(placed)) or Decimal(0)
        with self._engines["stock"].connect() as c:
            rows = c.execute(select(stock.c.sku, stock.c.free, stock.c.reserved, stock.c.sold).order_by(stock.c.sku))
            goods = {sku: Goods(free, reserved, sold, ordered.get(sku, 0)) for sku, free, reserved, sold in rows}
        with self._engines["balance"].connect() as c:
            sums = [func.sum(column) for column in (account.c.balance, account.c.held, account.c.paid)]
            at_hand, held, paid = tuple(c.execute(select(*sums)).one())
        return Totals(goods, at_hand, held, paid, owed, counts)

    def order_status(self, order_id: str) -> str:
        """PENDING, PLACED, REJECTED, or empty when it was never written down."""
        with self._engines["order"].connect() as c:
            return c.scalar(select(orders.c.status).where(orders.c.id == order_id)) or ""

    def goods(self, sku: str) -> Pieces:
        """Where the pieces of a product are."""
        with self._engines["stock"].connect() as c:
            return Pieces(*c.execute(select(stock.c.free, stock.c.reserved, stock.c.sold).where(stock.c.sku == sku)).one())

    def transaction(self, order_id: str) -> str:
        """Status of the order's global transaction, from the coordinator's store; empty when it has none."""
        with self._store.connect() as c:
            status = c.scalar(text("SELECT status FROM txc_global WHERE business_key = :key"), {"key": f"order:{order_id}"})
            return status or ""

    def reason(self, order_id: str) -> str:
        """Why its global transaction was decided as it was."""
        with self._store.connect() as c:
            reason = c.scalar(text("SELECT reason FROM txc_global WHERE business_key = :key"), {"key": f"order:{order_id}"})
            return reason or ""

    def branches(self, order_id: str) -> int:
        """How many branches its global transaction has."""
        query = text("SELECT count(*) FROM txc_branch b JOIN txc_global g ON g.xid = b.xid WHERE g.business_key = :key")
        with self._store.connect() as c:
            return c.scalar(query, {"key": f"order:{order_id}"}) or 0

    def attempts(self) -> int:
        """How many global transactions have been begun for orders; less those that have ended without a branch."""
        with self._store.connect() as c:
            return c.scalar(text("SELECT count(*) FROM txc_global WHERE business_key LIKE 'order:%'")) or 0

    def unfinished(self) -> int:
        """Global transactions that the coordinator has not finished."""
        with self._store.connect() as c:
            query = text("SELECT count(*) FROM txc_global WHERE status NOT IN ('COMMITTED', 'ROLLED_BACK')")
            return c.scalar(query) or 0

    def pending(self, *services: str) -> int:
        """Local transactions that wait for their second phase, in the databases of some services or of all."""
        found = 0
        for service in services or self._ways:
            with self._engines[service].connect() as c:
                if c.dialect.has_table(c, "txcoord_database"):
                    found += self._ways[service].pending(c)
        return found

    def strange_fences(self) -> int:
        """Fence rows where there must be none."""
        found = 0
        for service, way in self._ways.items():
            with self._engines[service].connect() as c:
                if not way.leaves_fences and c.dialect.has_table(c, "txcoord_fence"):
                    found += fences(c)
        return found

    @contextmanager
    def holding(self, table: Table, key: str, **values: object) -> Iterator[None]:
        """Lock a row as another program might, so that the service that wants it waits until the block is left.

        Args:
            table: The row's.
            key: The row's.
            values: What it is changed to.
        """
        engine = self._engines[{"stock": "stock", "account": "balance", "orders": "order"}[table.name]]
        column = next(iter(table.primary_key.columns))
        with engine.begin() as c:
            c.execute(update(table).where(column == key).values({column.name: column, **values}))
            yield

    def give(self, customer: str, money: Decimal) -> None:
        """Set what a customer has at hand."""
        with self._engines["balance"].begin() as c:
            c.execute(update(account).where(account.c.customer == customer).values(balance=money))

    @contextmanager
    def holding_undo_records(self, service: str) -> Iterator[None]:
        """Lock what a service keeps for its rollbacks, as somebody might who looks at it."""
        with self._engines[service].begin() as c:
            c.execute(text("UPDATE txcoord_undo_log SET state = state"))
            yield

    def broken_promises(self, start: Totals) -> list[str]:
        """What is not as it must be when all orders have ended; empty: goods and money are conserved.

        Args:
            start: The books after `fill`.
        """
        now = self.totals()
        goods = now.goods.values()
        promises = {
            "pieces of a product were lost or made": now.pieces() == start.pieces(),
            "pieces are still reserved": not any(g.reserved for g in goods),
            "pieces sold are not the pieces of placed orders": all(g.sold == g.ordered for g in goods),
            "money was lost or made": now.money() == start.money(),
            "money is still held": not now.held,
            "money paid is not what placed orders cost": now.paid == now.owed,
            "orders are still pending": "PENDING" not in now.orders,
            "local transactions still wait for their second phase": not self.pending(),
            "fence rows were written in AT mode": not self.strange_fences(),
            "the coordinator has unfinished transactions": not self.unfinished(),
        }
        return [broken for broken, kept in promises.items() if not kept]


def _engine(url: str) -> Engine:
    made = make_url(url)
    engine = create_engine(made.set(drivername=_DRIVERS[made.get_backend_name()]), pool_pre_ping=True)
    if made.get_backend_name() == "sqlite":

        @event.listens_for(engine, "connect")
        def wait(connection: object, record: object) -> None:
            connection.execute("PRAGMA busy_timeout = 20000")  # type: ignore[attr-defined]  # sqlite3.Connection

    return engine
