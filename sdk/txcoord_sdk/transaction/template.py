"""What surrounds the user's function: join or begin, run, commit or roll back, try again.

The order is that of Spring's and Seata's transaction templates: propagation, begin, business, then commit, or rollback unless a
rule says otherwise; hooks around the end; what was set aside is taken up again last.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from txcoord_proto.errors import (
    LocalTransactionOpenError,
    NoTransactionError,
    OutcomeUnknownError,
    RolledBackError,
    TransactionExistsError,
    TxcoordError,
)
from txcoord_proto.status import GlobalStatus

from txcoord_sdk.context import current, enter, leave
from txcoord_sdk.transaction.effects import Invoke, Pause, Steps
from txcoord_sdk.transaction.options import Options, Propagation
from txcoord_sdk.transaction.transaction import GlobalTransaction

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0

Begin = Callable[[int], GlobalTransaction]
"""Makes a new transaction; its argument is when its first attempt began (0: this is the first)."""


def run_steps(options: Options, begin: Begin, call: Callable[[], Any]) -> Steps[Any]:
    """Run `call` as `options` say.

    Args:
        options: Of the function or block.
        begin: Makes a transaction where one is needed.
        call: The user's function with its arguments.
    """
    existing = current()
    match options.propagation:
        case Propagation.MANDATORY if existing is None:
            raise NoTransactionError("this function needs a global transaction (propagation MANDATORY): call it from one")
        case Propagation.NEVER if existing is not None:
            raise TransactionExistsError(f"this function must not run in a global transaction (propagation NEVER): {existing!r}")
        case Propagation.REQUIRED | Propagation.SUPPORTS | Propagation.MANDATORY if existing is not None:
            return (yield Invoke(call))  # only its initiator's outermost function ends it
        case Propagation.REQUIRED | Propagation.REQUIRES_NEW:
            return (yield from _with_retries(options, begin, call))
    with entered(None):
        return (yield Invoke(call))


def _with_retries(options: Options, begin: Begin, call: Callable[[], Any]) -> Steps[Any]:
    first_begun_at, pause = 0, _FIRST_PAUSE
    for attempt in range(options.retries + 1):
        transaction = begin(first_begun_at)
        try:
            return (yield from _once(options, transaction, call))
        except TxcoordError as error:
            if not error.retryable or attempt == options.retries:
                raise
            log.info("%r is tried again after %s", transaction, error.code)
        first_begun_at = first_begun_at or transaction.begun_at
        yield Pause(pause * (0.5 + random.random()))  # noqa: S311 - jitter
        pause = min(_LONGEST_PAUSE, pause * 2)
    raise AssertionError("the last attempt returns or raises")


def _once(options: Options, transaction: GlobalTransaction, call: Callable[[], Any]) -> Steps[Any]:
    with entered(transaction):
        try:
            result = yield Invoke(call)
        except BaseException as error:
            if options.rolls_back(error):
                yield from end_with_rollback(options, transaction, repr(error))
            else:
                yield from end_with_commit(options, transaction)
            raise
        yield from end_with_commit(options, transaction)
        return result


def end_with_commit(options: Options, transaction: GlobalTransaction) -> Steps[None]:
    """Commit, with hooks; what cannot be committed while a local transaction is open is rolled back."""
    hooks = options.hooks
    yield from _hook(hooks.before_commit, transaction)
    try:
        yield from transaction.commit_steps()
    except LocalTransactionOpenError as error:
        yield from end_with_rollback(options, transaction, str(error))
        raise
    except RolledBackError:
        yield from _hook(hooks.after_rollback, transaction)
        yield from _hook(hooks.after_completion, transaction)
        raise
    except OutcomeUnknownError:
        yield from _hook(hooks.after_completion, transaction)
        raise
    yield from _hook(hooks.after_commit, transaction)
    yield from _hook(hooks.after_completion, transaction)


def end_with_rollback(options: Options, transaction: GlobalTransaction, reason: str) -> Steps[None]:
    """Roll back, with hooks; a coordinator that cannot be reached rolls back by itself at the deadline."""
    if transaction.status is not GlobalStatus.ACTIVE:
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
        log.exception("a completion hook of %r failed", transaction)


@contextmanager
def entered(transaction: GlobalTransaction | None) -> Generator[None]:
    """Run with `transaction` as the current one; None: with none."""
    token = enter(transaction)
    try:
        yield
    finally:
        leave(token)
