"""Apache Kafka, one node without ZooKeeper (KRaft), from its Maven artifacts: no distribution packages it."""

from __future__ import annotations

import asyncio
import base64
import threading
import uuid
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from txcoord_sdk.testing import free_port

from tests.servers.kafka_jars import KAFKA_VERSION, fetch_jars, jars_directory
from tests.servers.process import readable
from tests.servers.recipe import Image, Launch, Recipe, Requirement, program

_ONE_NODE = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    # a killed broker may come back only when its registration has run out
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}


def _launch(directory: Path, port: int) -> Launch:
    controller = free_port()
    settings = _ONE_NODE | {
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "log.dirs": str(directory / "data"),
    }
    text = "".join(f"{name}={value}\n" for name, value in settings.items())
    java = (
        program("java"),
        "-Xmx512m",
        "-XX:TieredStopAtLevel=1",
        "-XX:-UsePerfData",
        "-cp",
        f"{readable(jars_directory(), directory)}/*",
    )
    configuration = str(directory / "server.properties")
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    format_storage = (*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", f"--config={configuration}")
    return Launch((*java, "kafka.Kafka", configuration), prepare=(format_storage,), files={"server.properties": text})


async def _describe(address: str) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=address, request_timeout_ms=3000)
    try:
        await client.start()
        if not (await client.describe_cluster())["brokers"]:
            raise ConnectionError("no broker is registered yet")
    finally:
        await client.close()


def _answers(address: str) -> None:
    """Ask in a thread of its own: the caller may be inside an event loop."""
    failure: list[Exception] = []

    def ask() -> None:
        try:
            asyncio.run(_describe(address))
        except Exception as error:
            failure.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    if failure:
        raise failure[0]


KAFKA = Recipe(
    "kafka",
    "TXCOORD_TEST_KAFKA",
    "{address}",
    _answers,
    (
        Requirement("default-jre-headless", lambda: bool(program("java"))),
        Requirement("maven", lambda: jars_directory().is_dir() or bool(program("mvn"))),
    ),
    _launch,
    fetch_jars,
    image=Image(
        f"apache/kafka:{KAFKA_VERSION}",
        9092,
        {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in _ONE_NODE.items()}
        | {
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
            "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
            "KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT://{address}",
        },
    ),
    start_limit_s=120.0,
)
