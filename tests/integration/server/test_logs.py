"""The log of a real coordinator, in both forms."""

from __future__ import annotations

import json

import pytest
from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.integration.server.stub import Stub


@pytest.mark.parametrize("form", ["human", "json"])
def test_a_time_out_is_told_with_its_xid(form: str) -> None:
    with CoordinatorProcess(options=("--log-format", form)) as coordinator:
        with Stub(coordinator.address) as stub:
            well = stub.prepared()
            stub.commit(well)
            late = stub.begin(timeout_ms=200)
            stub.register(late)
        wait_until(lambda: late in coordinator.log(), 5, "the line")
        lines = coordinator.log().splitlines()
    assert not [line for line in lines if well in line], "nothing is told of a transaction that goes well"
    (line,) = [line for line in lines if late in line]
    if form == "json":
        found = [json.loads(each) for each in lines]
        (told,) = [each for each in found if each.get("xid") == late]
        assert told["level"] == "warning"
        assert "TIMEOUT" in told["message"]
        assert all({"time", "level", "logger", "message"} <= set(each) for each in found)
    else:
        assert f" WARNING [{late}] decided ROLLBACK, reason TIMEOUT: test of service order" in line
