"""ZooKeeper from the distribution's library package, which brings no service. Its shortest session is one second."""

from __future__ import annotations

import socket
from pathlib import Path

from kazoo.client import KazooClient

from tests.servers.recipe import Image, Launch, Recipe, Requirement, program
from tests.servers.server import host_and_port

_JAR = Path("/usr/share/java/zookeeper.jar")
_MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"


def _launch(directory: Path, port: int) -> Launch:
    settings = {
        "tickTime": "500",
        "minSessionTimeout": "1000",
        "maxSessionTimeout": "60000",
        "dataDir": str(directory / "data"),
        "clientPort": str(port),
        "clientPortAddress": "127.0.0.1",
        "maxClientCnxns": "200",
        "admin.enableServer": "false",
    }
    text = "".join(f"{name}={value}\n" for name, value in settings.items())
    java = (program("java"), "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-XX:+UseSerialGC")
    return Launch((*java, "-cp", str(_JAR), _MAIN, str(directory / "zoo.cfg")), files={"zoo.cfg": text})


def _answers(address: str) -> None:
    """Ask for the status first: a session asked for before the server serves is dropped, or waits out its whole timeout."""
    with socket.create_connection(host_and_port(address.partition(",")[0]), timeout=2) as connection:
        connection.sendall(b"srvr")
        if b"not currently serving" in connection.recv(4096):
            raise ConnectionError("it does not serve yet")
    client = KazooClient(hosts=address, timeout=10.0)
    try:
        client.start(timeout=3)
        client.get_children("/")
    finally:
        client.stop()
        client.close()


ZOOKEEPER = Recipe(
    "zookeeper",
    "TXCOORD_TEST_ZOOKEEPER",
    "{address}",
    _answers,
    (
        Requirement("default-jre-headless", lambda: bool(program("java"))),
        Requirement("libzookeeper-java", _JAR.exists),
    ),
    _launch,
    image=Image(
        "zookeeper:3.8",
        2181,
        {
            "ZOO_TICK_TIME": "500",
            "ZOO_CFG_EXTRA": "minSessionTimeout=1000 maxSessionTimeout=60000",
            "ZOO_ADMINSERVER_ENABLED": "false",
        },
    ),
)
