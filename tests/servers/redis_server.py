"""Redis from the distribution, with each write on disk before its answer."""

from __future__ import annotations

from pathlib import Path

import redis

from tests.servers.recipe import Image, Launch, Recipe, Requirement, program

_OPTIONS = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


def _launch(directory: Path, port: int) -> Launch:
    loopback = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory))
    return Launch((program("redis-server"), *loopback, *_OPTIONS))


def _answers(url: str) -> None:
    with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
        client.ping()


REDIS = Recipe(
    "redis",
    "TXCOORD_TEST_REDIS",
    "redis://{address}/0",
    _answers,
    (Requirement("redis-server", lambda: bool(program("redis-server")), service="redis-server"),),
    _launch,
    image=Image("redis:7", 6379, command="redis-server --appendonly yes --appendfsync always"),
)
