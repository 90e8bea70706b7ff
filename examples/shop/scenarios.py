"""What happens in the shop, one scenario after the other.

What differs between modes is in `modes`. Nothing in the services or in txcoord is prepared for what happens. Where it has to
happen at a certain moment, the driver holds a row of a service's database, as any other program might, so that the service waits
there, and lets go of it afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass

from examples.shop.modes import Pieces
from examples.shop.stage import CUSTOMERS, PATIENCE, Answer, Stage
from examples.shop.stock.database import LARGEST_ORDER

ORDERS = 500
SOLD = Pieces(free=-1, sold=+1)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One of them."""

    name: str
    title: str
    run: Callable[[Stage], None]


def success(stage: Stage) -> None:
    """All goes well."""
    answer = stage.order("ann", "tea", 2)
    stage.expect(f"ann is told that her order is placed ({answer.code})", answer.placed)
    stage.expect("the order is PLACED", stage.ledger.order_status(answer.order_id) == "PLACED")


def insufficient_balance(stage: Stage) -> None:
    """The last of three services says no."""
    answer = stage.order("bob", "lamp", 3)
    stage.expect(f"bob is told that he cannot pay ({answer.code})", answer.code == 409 and "cannot pay" in answer.text)
    rejected = stage.ways["order"].rejected
    what = f"his order is {rejected}" if rejected else "there is no trace of his order"
    stage.expect(what, stage.ledger.order_status(answer.order_id) == rejected)


def out_of_stock(stage: Stage) -> None:
    """The first one says no."""
    answer = stage.order("ann", "unicorn")
    stage.expect(f"ann is told that there is none ({answer.code})", answer.code == 409 and "out of stock" in answer.text)
    stage.expect("her order was never written down", stage.ledger.order_status(answer.order_id) == "")


def caught_failure(stage: Stage) -> None:
    """One branch fails, the order service catches that, and the rest commits."""
    answer = stage.order("ann", "tea", 1, gift="unicorn")
    stage.expect(f"the order is placed without its gift ({answer.code})", answer.placed)
    stage.settled()
    stage.expect("the transaction is COMMITTED", stage.ledger.transaction(answer.order_id) == "COMMITTED")


def timeout(stage: Stage) -> None:
    """Payment takes longer than the order may."""
    before = stage.ledger.goods("lamp")
    with stage.slow_money("ann"):
        order_id, answer = stage.order_until_goods_move("ann", "lamp")
        way = stage.ways["stock"]
        stage.expect(f"the lamp is {way.undecided}", stage.moved("lamp", before) == way.moved)
        stage.say(f"payment waits; after {PATIENCE:g} s the coordinator has had enough")
        stage.decided(order_id, "ROLLING_BACK", "ROLLED_BACK")
    stage.expect(f"ann is told that her order failed ({answer.result().code})", answer.result().code == 503)
    stage.settled()
    reason = stage.ledger.reason(order_id)  # the payment ends at the deadline as well: whoever is faster says why
    stage.expect(f"it was rolled back: {reason}", reason in ("TIMEOUT", "REQUESTED"))
    stage.expect("the lamp is free again", stage.ledger.goods("lamp") == before)


def session_dependency(stage: Stage) -> None:
    """The stock service's session is committed by a FastAPI dependency, after the handler: it works, and it fails there."""
    answer = stage.order("ann", "pen", LARGEST_ORDER)
    stage.expect(f"{LARGEST_ORDER} pens: the session is committed, the order placed ({answer.code})", answer.placed)
    answer = stage.order("ann", "pen", LARGEST_ORDER + 1)
    stage.expect(f"{LARGEST_ORDER + 1} pens: the session cannot be committed ({answer.code})", answer.code == 500)
    stage.settled()
    rolled_back = stage.ledger.transaction(answer.order_id) in ("ROLLED_BACK", "")
    stage.expect("and the order is rolled back", rolled_back and not stage.ledger.order_status(answer.order_id))


def restarted_participant(stage: Stage) -> None:
    """The stock service is stopped after its phase one and comes back when the decision is long made; nobody calls it."""
    before, way = stage.ledger.goods("tea"), stage.ways["stock"]
    with stage.slow_money("ann"):
        order_id, answer = stage.order_until_goods_move("ann", "tea")
        stage.services["stock"].stop()
        stage.say(f"the tea is {way.undecided}; the stock service is stopped")
    stage.decided(order_id, "COMMITTING")
    stage.expect("commit is decided, and nobody is there for the tea's second phase", stage.ledger.pending("stock") == 1)
    stage.services["stock"].start()
    stage.settled()
    sold = stage.moved("tea", before) == SOLD
    stage.expect(f"started again, without a request, it ends what it began ({answer.result().code})", answer.result().placed)
    stage.expect("the tea is sold, and nothing waits any more", sold and not stage.ledger.pending("stock"))


def killed_in_phase_one(stage: Stage) -> None:
    """The stock service dies in the middle of its local transaction."""
    with stage.slow_goods("chair"):
        order_id, answer = stage.order_later("ann", "chair")
        stage.taking_part(order_id)
        stage.services["stock"].kill()
        stage.say("the stock service was killed while it waited for the chair's row")
    stage.services["stock"].start()
    stage.settled()
    stage.expect(f"ann is told that her order failed ({answer.result().code})", not answer.result().placed)
    stage.expect("the transaction is ROLLED_BACK", stage.ledger.transaction(order_id) == "ROLLED_BACK")


def killed_in_commit(stage: Stage) -> None:
    """The stock service dies in the middle of a commit's second phase."""
    service = stage.services["stock"]
    order_id, answer = _stuck(stage, Wish("ann", "chair"), "COMMITTING", service.kill)
    stage.say("the stock service was killed in the middle of its second phase")
    service.start()
    stage.settled()
    _placed(stage, order_id, answer)


def killed_in_rollback(stage: Stage) -> None:
    """The stock service dies while it takes back what it did for an order that cannot be paid."""
    before, service = stage.ledger.goods("lamp"), stage.services["stock"]
    order_id, answer = _stuck(stage, Wish("eve", "lamp", 2), "ROLLING_BACK", service.kill)
    stage.say("the stock service was killed in the middle of its second phase")
    service.start()
    stage.settled()
    stage.expect(f"eve is told that she cannot pay ({answer.result().code})", answer.result().code == 409)
    stage.expect("the transaction is ROLLED_BACK", stage.ledger.transaction(order_id) == "ROLLED_BACK")
    stage.expect("the lamps are free again", stage.ledger.goods("lamp") == before)
    stage.give_back("eve")


def coordinator_killed(stage: Stage) -> None:
    """The coordinator dies between its decision and the second phase, and is started again."""

    def restart() -> None:
        stage.coordinator.kill()
        stage.say("the coordinator was killed, and started again")
        stage.coordinator.start()

    order_id, answer = _stuck(stage, Wish("ann", "lamp"), "COMMITTING", restart)
    stage.settled()
    _placed(stage, order_id, answer)


def standby_takes_over(stage: Stage) -> None:
    """The coordinator dies and stays dead; the one that stood by finishes the transaction and serves the next."""
    stage.standby.start()
    order_id, answer = _stuck(stage, Wish("ann", "lamp"), "COMMITTING", stage.coordinator.kill)
    stage.say("the coordinator was killed; another one stood by on the same store")
    stage.settled()
    _placed(stage, order_id, answer)
    stage.expect("the next order is placed too", stage.order("ann", "tea").placed)


def rush(stage: Stage) -> None:
    """Many customers at once, few products, not enough of some."""
    dice = random.Random(1)  # noqa: S311 - the same rush each time
    products = ("tea", "lamp", "chair", "pen")
    wishes = [(f"customer {n % CUSTOMERS + 1}", dice.choice(products), dice.randint(1, 3)) for n in range(ORDERS)]
    before, attempts = stage.ledger.totals().orders.get("PLACED", 0), stage.ledger.attempts()
    answers = [coming.result() for _, coming in [stage.order_later(*wish) for wish in wishes]]
    stage.settled()
    told = sum(answer.placed for answer in answers)
    placed = stage.ledger.totals().orders["PLACED"] - before
    refused = sum(answer.code == 409 for answer in answers)
    late = sum(answer.code in (500, 503) for answer in answers)  # 500: found out in the exit of a dependency
    stage.say(f"{told} orders placed, {refused} refused for want of goods or money, {late} rolled back since they took too long")
    stage.say(f"{stage.ledger.attempts() - attempts} global transactions for {ORDERS} orders")
    stage.expect("every order that a customer was told is placed is PLACED, and no other", placed == told)
    stage.expect("none ended in another way", told + refused + late == ORDERS and told > 0 and refused > 0)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a customer orders."""

    customer: str
    sku: str
    quantity: int = 1


def _stuck(stage: Stage, wish: Wish, decision: str, strike: Callable[[], None]) -> tuple[str, Future[Answer]]:
    """Order, have the decision made and the stock service stuck in its second phase, then strike.

    Returns:
        The order's id and what the customer will be told.
    """
    way, before = stage.ways["stock"], stage.ledger.goods(wish.sku)
    commits = decision == "COMMITTING"
    with ExitStack() as held:
        with (stage.slow_money if commits else stage.slow_money_then_none)(wish.customer):
            order_id, answer = stage.order_until_goods_move(wish.customer, wish.sku, wish.quantity)
            held.enter_context(stage.slow_second_phase(wish.sku, way.commit_waits_for if commits else way.rollback_waits_for))
        stage.decided(order_id, decision)
        as_it_was = stage.moved(wish.sku, before) == way.moved.times(wish.quantity) and stage.ledger.pending("stock") == 1
        stage.expect(f"{decision}: that is decided, and the {wish.sku} still {way.undecided}", as_it_was)
        strike()
    return order_id, answer


def _placed(stage: Stage, order_id: str, answer: Future[Answer]) -> None:
    stage.expect(f"ann is told that her order is placed ({answer.result().code})", answer.result().placed)
    stage.expect("the order is PLACED", stage.ledger.order_status(order_id) == "PLACED")


SCENARIOS = (
    Scenario("success", "An order that succeeds", success),
    Scenario("insufficient-balance", "Insufficient balance", insufficient_balance),
    Scenario("out-of-stock", "Out of stock", out_of_stock),
    Scenario("caught-failure", "A failure of one branch that is caught", caught_failure),
    Scenario("timeout", "An order that takes too long", timeout),
    Scenario("session-dependency", "A session committed in a dependency's exit", session_dependency),
    Scenario("restarted-participant", "A participant restarted without traffic", restarted_participant),
    Scenario("killed-in-phase-one", "A service killed in the middle of its local transaction", killed_in_phase_one),
    Scenario("killed-in-commit", "A service killed in the second phase of a commit", killed_in_commit),
    Scenario("killed-in-rollback", "A service killed in the second phase of a rollback", killed_in_rollback),
    Scenario("coordinator-killed", "The coordinator killed between decision and second phase", coordinator_killed),
    Scenario("standby", "A standby takes over", standby_takes_over),
    Scenario("rush", f"{ORDERS} orders by {CUSTOMERS} customers at once", rush),
)
