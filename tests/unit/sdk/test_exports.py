"""The public surface: what `txcoord_sdk` offers, where it comes from, and that asking for nothing imports nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import txcoord_sdk

PUBLIC = {
    "connect", "Client", "ClientConfig", "Tls",
    "global_transaction", "GlobalTransaction", "Propagation", "Hooks", "current", "suspend", "resume", "GlobalStatus", "Reason",
    "current_headers", "acurrent_headers", "joined",
    "tcc", "serve_object", "current_branch", "TccBranch", "ParkError", "UnavailableError",
    "HangingTryError", "RepeatedTryError", "TryLostError",
    "TxcoordError", "AlreadyCommittedError", "ConfigurationError", "CoordinatorUnreachableError", "DeadlinePassedError",
    "DeadlockError", "ForeignXidError", "InvalidArgumentError", "LocalTransactionOpenError", "LockConflictError",
    "NoTransactionError", "NotActiveError", "OutcomeUnknownError", "RolledBackError", "TransactionEndedError",
    "TransactionExistsError", "UnknownXidError", "ExpiredXidError", "WrongOwnerError",
}  # fmt: skip


def test_the_surface_is_pinned() -> None:
    assert set(txcoord_sdk.__all__) == PUBLIC
    assert len(txcoord_sdk.__all__) == len(PUBLIC)
    assert set(dir(txcoord_sdk)) >= PUBLIC


def test_each_name_is_what_its_home_calls_so() -> None:
    for module, names in txcoord_sdk.HOMES.items():
        for name in names:
            assert getattr(txcoord_sdk, name) is getattr(import_module(module), name)
    assert {name for names in txcoord_sdk.HOMES.values() for name in names} == PUBLIC


def test_type_checkers_are_told_the_same() -> None:
    tree = ast.parse(Path(txcoord_sdk.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    told = {
        node.module: tuple(alias.name for alias in node.names)
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert {module: set(names) for module, names in told.items()} == {m: set(names) for m, names in txcoord_sdk.HOMES.items()}


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(txcoord_sdk, "two_phase_everything")


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_the_pytest_plugin_imports_nothing_of_ours() -> None:
    code = (
        "import sys, txcoord_sdk.testing;"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('txcoord_sdk', 'txcoord_proto', 'grpc', 'sqlalchemy')))"
    )
    assert _run(code) == "['txcoord_sdk', 'txcoord_sdk.testing']"


def test_tcc_is_the_decorator_whatever_was_imported_first() -> None:
    assert _run("import txcoord_sdk.tcc.branch; from txcoord_sdk import tcc; print(type(tcc).__name__)") == "function"
    assert (
        _run("from txcoord_sdk import tcc; from txcoord_sdk.tcc import branch as b; print(b.__name__)")
        == "txcoord_sdk.tcc.branch"
    )
