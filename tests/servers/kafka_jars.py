"""Kafka's Java archives: fetched once by Maven into the user's cache and shared by every run.

The folder appears under its name only when it is complete. A download that broke is taken up by Maven, whose own
repository keeps each archive that arrived.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from tests.servers.cache import cache_directory, locked
from tests.servers.recipe import Say, program

KAFKA_VERSION = "4.1.1"
_DOWNLOAD_LIMIT_S = 900
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
_DEPENDENCIES = (("org.apache.kafka", "kafka_2.13", KAFKA_VERSION), ("org.slf4j", "slf4j-nop", "1.7.36"))


class DownloadError(RuntimeError):
    """Maven could not fetch Kafka; the text carries the end of its output."""


def jars_directory() -> Path:
    """Where the archives are once they have been fetched."""
    return cache_directory() / f"kafka-{KAFKA_VERSION}"


def fetch_jars(say: Say) -> None:
    """Fetch the archives unless they are there; a second process waits for the first.

    Raises:
        DownloadError: Three attempts failed.
    """
    with locked("kafka"):
        if jars_directory().is_dir():
            return
        say(f"kafka: fetching version {KAFKA_VERSION} with Maven (43 MB, once) ...")
        started = time.monotonic()
        attempts = Retrying(
            retry=retry_if_exception_type(DownloadError), stop=stop_after_attempt(3), wait=wait_fixed(5), reraise=True
        )
        attempts(_fetch)
        say(f"kafka: fetched into {jars_directory()} in {time.monotonic() - started:.0f} s")


def _fetch() -> None:
    """One attempt in a folder of its own: the Maven of a killed run may still be at work in another."""
    for abandoned in cache_directory().glob("kafka-*.partial"):
        shutil.rmtree(abandoned, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix="kafka-", suffix=".partial", dir=cache_directory()))
    (work / "pom.xml").write_text(_pom())
    quiet = ["-q", "-B", "-Dstyle.color=never"]
    into = [f"-DoutputDirectory={work / 'lib'}", "-DincludeScope=runtime"]
    command = [program("mvn"), *quiet, "-f", str(work / "pom.xml"), _COPY, *into]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_DOWNLOAD_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DownloadError(f"Maven took more than {_DOWNLOAD_LIMIT_S} s") from error
    if done.returncode:
        raise DownloadError(f"Maven could not fetch Kafka {KAFKA_VERSION}:\n{(done.stdout + done.stderr)[-1500:]}")
    (work / "lib").rename(jars_directory())
    shutil.rmtree(work)


def _pom() -> str:
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
        for group, artifact, version in _DEPENDENCIES
    )
    own = "<modelVersion>4.0.0</modelVersion><groupId>txcoord</groupId><artifactId>kafka</artifactId><version>1</version>"
    return f"<project>{own}<packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>\n"
