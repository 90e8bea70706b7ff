"""What a client is told, and what it refuses to be told."""

from __future__ import annotations

from pathlib import Path

import pytest
from txcoord_proto.errors import ConfigurationError
from txcoord_sdk.config import DEFAULT_ADDRESS, ClientConfig, Tls, config_from


def test_arguments_come_before_the_environment() -> None:
    environment = {"TXCOORD_ADDRESS": "c1:8190, c2:8190,", "TXCOORD_SERVICE": "stock", "TXCOORD_TOKEN": "t1"}
    told = config_from(environment=environment)
    assert told == ClientConfig("stock", ("c1:8190", "c2:8190"), "t1")
    told = config_from("c3:1", "order", "", environment=environment)
    assert (told.addresses, told.service, told.token) == (("c3:1",), "order", "")
    assert config_from(service="order", environment={}).addresses == (DEFAULT_ADDRESS,)


def test_tls_from_the_environment() -> None:
    assert config_from(service="a", environment={}).tls is None
    assert config_from(service="a", environment={"TXCOORD_TLS": "1"}).tls == Tls()
    environment = {
        "TXCOORD_TLS_CA": "/ca.pem",
        "TXCOORD_TLS_CERT": "/c.pem",
        "TXCOORD_TLS_KEY": "/k.pem",
        "TXCOORD_TLS_SERVER_NAME": "c",
    }
    assert config_from(service="a", environment=environment).tls == Tls(Path("/ca.pem"), Path("/c.pem"), Path("/k.pem"), "c")


@pytest.mark.parametrize(
    ("address", "service"),
    [("localhost", "a"), ("localhost:", "a"), (":8190", "a"), ("h:port", "a"), (" , ", "a"), ("h:1", ""), ("h:1", "s" * 101)],
)
def test_nonsense_is_refused_when_connecting(address: str, service: str) -> None:
    with pytest.raises(ConfigurationError):
        config_from(address, service, environment={})


def test_a_process_names_itself() -> None:
    assert ClientConfig("order").name().startswith("order@")
    assert ClientConfig("order", instance="order-7").name() == "order-7"
