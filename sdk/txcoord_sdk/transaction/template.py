"""What surrounds the user's function: join or begin, run, commit or roll back, try again.

The order is that of Spring's and Seata's transaction templates: propagation, begin, business, then commit, or rollback unless a
rule says otherwise; hooks around the end; what was set aside is taken up again last.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

from txcoord_proto.errors import (
    LocalTransactionOpenError,
    RolledBackError,
    TxcoordError,
)
from txcoord_proto.status import GlobalStatus

from txcoord_sdk.context import current, entered
from txcoord_sdk.transaction.effects import Invoke, Pause, Steps
from txcoord_sdk.transaction.isolation import at_level
from txcoord_sdk.transaction.options import Options, wait_for
from txcoord_sdk.transaction.transaction import GlobalTransaction

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
_SETTLEMENT_WAITS = 3

Begin = Callable[[int], GlobalTransaction]
"""Makes a new transaction; its argument is when its first attempt began (0: this is the first)."""


def run_steps(options: Options, begin: Begin, call: Callable[[], Any], unsaved: Callable[[], str]) -> Steps[Any]:
    """Run `call` as `options` say.

    Args:
        options: Of the function.
        begin: Makes a transaction where one is needed.
        call: The user's function with its arguments.
        unsaved: Which of its arguments hold what has not been written, for people; empty: none.
    """
    existing = current()
    if (joined := options.joins(existing)) is None and options.begins:
        return (yield from _with_retries(options, begin, call, unsaved))
    with entered(joined), at_level(options.isolation):
        return (yield Invoke(call))  # only its initiator's outermost function ends it


def _with_retries(options: Options, begin: Begin, call: Callable[[], Any], unsaved: Callable[[], str]) -> Steps[Any]:
    first_begun_at, pause = 0, _FIRST_PAUSE
    for attempt in range(options.retries + 1):
        transaction = begin(first_begun_at)
        transaction.isolation = options.isolation
        try:
            return (yield from _once(options, transaction, call, unsaved))
        except TxcoordError as error:
            if not error.retryable or attempt == options.retries or not (yield from _is_settled(transaction)):
                raise
            log.info("%r is tried again after %s", transaction, error.code, extra={"xid": transaction.known_xid})
        first_begun_at = first_begun_at or transaction.begun_at
        yield Pause(pause * (0.5 + random.random()))  # noqa: S311 - jitter
        pause = min(_LONGEST_PAUSE, pause * 2)
    raise AssertionError("the last attempt returns or raises")


def _is_settled(transaction: GlobalTransaction) -> Steps[bool]:
    """Whether nothing of it is left, so that it does not stand in the way of the next attempt; waits for that."""
    for _ in range(_SETTLEMENT_WAITS):
        if transaction.settled or transaction.status not in (GlobalStatus.ROLLING_BACK, GlobalStatus.ROLLED_BACK):
            break
        try:
            yield from transaction.settle_steps("for another attempt")
        except TxcoordError:
            break
    return transaction.settled and transaction.status is GlobalStatus.ROLLED_BACK


def _once(options: Options, transaction: GlobalTransaction, call: Callable[[], Any], unsaved: Callable[[], str]) -> Steps[Any]:
    try:
        with entered(transaction), at_level(options.isolation):
            result = yield Invoke(call)
    except GeneratorExit:
        raise  # nobody is there any more to do anything
    except BaseException as error:
        if options.rolls_back(error):
            yield from end_with_rollback(options, transaction, repr(error))
        else:
            yield from end_with_commit(options, transaction, unsaved)
        raise
    yield from end_with_commit(options, transaction, unsaved)
    return result


def end_with_commit(options: Options, transaction: GlobalTransaction, unsaved: Callable[[], str]) -> Steps[None]:
    """Commit, with hooks; what cannot be committed while a local transaction is open is rolled back.

    Args:
        options: Of the function or block.
        transaction: It; where it was ended by hand, nothing is left to do.
        unsaved: What the caller's sessions still hold that has not been written, for people.
    """
    if transaction.ended:
        return
    hooks = options.hooks
    if hooks.before_commit is not None:
        with entered(transaction):
            yield from _hook(hooks.before_commit, transaction)
    try:
        if left := unsaved():
            raise LocalTransactionOpenError(
                f"{transaction!r} cannot be committed: {left} holds changes that it has not written; commit the session before "
                "the global transaction ends",
                {"xid": transaction.known_xid},
            )
        yield from transaction.commit_steps(wait_for(options.wait))
    except GeneratorExit:
        raise
    except LocalTransactionOpenError as error:
        yield from end_with_rollback(options, transaction, str(error))
        raise
    except BaseException as error:
        if isinstance(error, RolledBackError):
            yield from _hook(hooks.after_rollback, transaction)
        yield from _hook(hooks.after_completion, transaction)
        raise
    yield from _hook(hooks.after_commit, transaction)
    yield from _hook(hooks.after_completion, transaction)


def end_with_rollback(options: Options, transaction: GlobalTransaction, reason: str) -> Steps[None]:
    """Roll back, with hooks; a coordinator that cannot be reached rolls back by itself at the deadline."""
    if transaction.ended:
        return
    try:
        yield from transaction.rollback_steps(reason)
    except TxcoordError as error:
        log.warning(
            "%r could not be rolled back now (%s); the coordinator does it at its deadline",
            transaction,
            error,
            extra={"xid": transaction.known_xid},
        )
    else:
        yield from _hook(options.hooks.after_rollback, transaction)
    yield from _hook(options.hooks.after_completion, transaction)


def _hook(hook: Callable[[GlobalTransaction], object] | None, transaction: GlobalTransaction) -> Steps[None]:
    if hook is None:
        return
    try:
        yield Invoke(lambda: hook(transaction))
    except Exception:
        log.exception("a completion hook of %r failed", transaction, extra={"xid": transaction.known_xid})
