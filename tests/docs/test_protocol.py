"""The commands of the page on the wire, by a client that knows nothing but what reflection tells it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from txcoord_proto import headers
from txcoord_proto.errors import known_codes
from txcoord_sdk.testing import CoordinatorProcess
from txcoord_server.rpc.status import status_of

from tests.docs.conftest import OpenPage
from tests.docs.page import DOCS, ROOT

PAGE = "reference/protocol.md"


@pytest.fixture
def grpcurl(tmp_path: Path) -> str:
    """A directory with a program of that name."""
    program = tmp_path / "bin" / "grpcurl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m tests.docs.grpcurl "$@"\n')
    program.chmod(0o755)
    return str(program.parent)


def test_a_transaction_by_hand(open_page: OpenPage, grpcurl: str) -> None:
    page = open_page("reference/protocol.md", PATH=f"{grpcurl}:{os.environ['PATH']}")
    page.shell()


def test_a_refusal_is_told(txcoord_coordinator: CoordinatorProcess, grpcurl: str) -> None:
    command = [f"{grpcurl}/grpcurl", "-plaintext", "-d", '{"xid": "a:b"}', txcoord_coordinator.address]
    done = subprocess.run([*command, "txcoord.v1.Coordinator/Status"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Code: INVALID_ARGUMENT" in done.stderr


def test_each_code_stands_beside_its_status() -> None:
    codes, checked = known_codes(), 0
    for line in (DOCS / PAGE).read_text().splitlines():
        cells = [re.findall(r"[A-Z_]{4,}", cell) for cell in line.split("|")[1:3]]
        if len(cells) == 2 and cells[0] and set(cells[0]) <= set(grpc.StatusCode.__members__):
            for code in set(cells[1]) & set(codes):
                assert status_of(codes[code]("")).name in cells[0], code
                checked += 1
    assert checked > 12


def test_the_headers_are_these() -> None:
    text = (DOCS / PAGE).read_text()
    for name in (headers.XID, headers.TIMEOUT, headers.AUTHORIZATION, headers.SERVICE, headers.ERROR_DETAIL):
        assert f"`{name}`" in text
