"""What all steps share: the unfinished transactions, the global locks, and the effects of the group commit that is gathering."""

from __future__ import annotations

from txcoord_proto.errors import TxcoordError
from txcoord_proto.status import GlobalStatus

from txcoord_server.domain.answers import Answer, Refused, Ticket
from txcoord_server.domain.effects import AbsentQuestion, Effects
from txcoord_server.domain.locks import LockTable
from txcoord_server.domain.session import Account, Branch, Transaction
from txcoord_server.domain.transitions import GlobalEvent, next_global


class Ledger:
    """The books of one group under one epoch; steps in `transactions` and `settlement` change them."""

    def __init__(self) -> None:
        self.effects = Effects()
        self.by_xid: dict[str, Transaction] = {}
        self.by_begin_key: dict[int, Transaction] = {}
        self.locks = LockTable()
        self.accounts: dict[str, Account] = {}
        self.unfinished = dict.fromkeys(GlobalStatus, 0)
        """How many transactions are in which status."""
        self.overdue: set[Branch] = set()
        """Branches whose second phase has failed so often that somebody should look."""
        self.weight = 0
        """Of all branches."""

    def take_effects(self) -> Effects:
        """Hand over what has gathered, for a group commit."""
        effects, self.effects = self.effects, Effects()
        return effects

    def account(self, service: str) -> Account:
        """What `service` has open."""
        account = self.accounts.get(service)
        if account is None:
            account = self.accounts[service] = Account(service)
        return account

    def enter(self, transaction: Transaction) -> None:
        """Take a transaction into the books."""
        self.by_xid[transaction.xid] = transaction
        self.unfinished[transaction.status] += 1
        transaction.account.unfinished += 1
        for branch in transaction.branches:
            self.weight += branch.weight
        if transaction.begin_key:
            self.by_begin_key[transaction.begin_key] = transaction

    def move(self, transaction: Transaction, event: GlobalEvent) -> None:
        """Let an event change a transaction's status: the only place where one changes.

        Raises:
            ForbiddenTransitionError: The event cannot happen in its status.
        """
        status = next_global(transaction.status, event)
        self.unfinished[transaction.status] -= 1
        self.unfinished[status] += 1
        transaction.status = status

    def leave(self, transaction: Transaction) -> None:
        """Drop a finished transaction from memory; its row stays for as long as retention says."""
        del self.by_xid[transaction.xid]
        self.unfinished[transaction.status] -= 1
        account = transaction.account
        account.unfinished -= 1
        if not account.unfinished:
            self.accounts.pop(account.service, None)  # names are the clients' to choose
        for branch in transaction.branches:
            self.weight -= branch.weight
        if transaction.begin_key:
            self.by_begin_key.pop(transaction.begin_key, None)

    def answer(self, ticket: Ticket, answer: Answer) -> None:
        """Have `answer` be told after the next group commit."""
        self.effects.answers.append((ticket, answer))
        self.effects.durable = True

    def refuse(self, ticket: Ticket, error: TxcoordError) -> None:
        """Have a refusal be told after the next group commit: somebody may act on it."""
        self.answer(ticket, Refused(error))

    def ask_store(self, question: AbsentQuestion) -> None:
        """Have the store be asked within the next group commit about XIDs that are not in memory."""
        self.effects.absent.append(question)
        self.effects.asked += len(question.xids)
        self.effects.durable = True
