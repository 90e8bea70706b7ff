"""Where servers come from, what happens when they cannot be had, and that none outlives the run that started it."""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.servers import guard
from tests.servers.cache import locked
from tests.servers.containers import engine_answers
from tests.servers.running import RECIPES, running
from tests.servers.server import Absence, NotOursError, Origin, Server, UnavailableError

ROOT = Path(__file__).parents[2]
ASKS_FOR_REDIS = "def test_it(redis): assert redis.port\n"
ASKS_FOR_MYSQL = "def test_it(mysql): assert mysql.port\n"


def silent(line: str) -> None:
    """Progress nobody watches."""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_ended(pids: list[int], limit_s: float = 10) -> None:
    deadline = time.monotonic() + limit_s
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.02)


def directories(pids: list[int]) -> set[Path]:
    """The servers' own directories, by what the processes work in; one that has ended meanwhile works nowhere."""
    found: set[Path] = set()
    for pid in pids:
        with suppress(FileNotFoundError):
            path = Path(os.readlink(f"/proc/{pid}/cwd"))
            found |= {each for each in (path, *path.parents) if each.name.startswith("txcoord-")}
    return found


@contextmanager
def command_line(*names: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m tests.servers NAMES` whose servers have started."""
    command = [sys.executable, "-m", "tests.servers", *names]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        try:
            for name in names:
                assert run.stdout.readline().startswith(f"TXCOORD_TEST_{name.upper()}=")
            yield run
        finally:
            run.kill()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, redis: Server) -> None:
    """Servers can be started here, and none is given."""
    for recipe in RECIPES.values():
        monkeypatch.delenv(recipe.variable, raising=False)


@pytest.mark.usefixtures("here")
def test_nothing_is_left_of_a_server_after_its_block(postgres: Server) -> None:
    with running("postgres", silent) as server:
        if server.origin is not Origin.PACKAGES:
            pytest.skip("a container's processes are not seen from here")
        pids = [server.pid, *guard.descendants(server.pid)]
        places = directories(pids)
        assert places
        assert len(pids) > 4
        assert server.port != postgres.port
    assert not [pid for pid in pids if alive(pid)]
    assert not [place for place in places if place.exists()]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port), timeout=2)


@pytest.mark.usefixtures("here")
def test_a_stopped_server_ends_with_its_block() -> None:
    with running("redis", silent) as server:
        assert server.control is not None
        server.control.pause()
    assert not alive(server.pid)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGABRT])
def test_no_server_outlives_its_run_however_that_ends(number: signal.Signals) -> None:
    with command_line("redis", "postgres") as run:
        pids = guard.descendants(run.pid)
        assert len(pids) > 6
        places = directories(pids)
        assert len(places) == 2
        run.send_signal(number)
        run.wait(60)
        wait_until_ended(pids)
    assert not [place for place in places if place.exists()]


@pytest.mark.usefixtures("here")
def test_a_server_dies_with_its_guard() -> None:
    with running("redis", silent) as server:
        parent = int(Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert parent in guard.descendants(os.getpid())
        os.kill(parent, signal.SIGKILL)
        wait_until_ended([server.pid])


@pytest.mark.usefixtures("here")
def test_servers_start_side_by_side() -> None:
    def start(_: int) -> int:
        with running("redis", silent) as server:
            return server.port

    with ThreadPoolExecutor(4) as pool:
        ports = list(pool.map(start, range(4)))
    assert len(set(ports)) == 4


def test_an_address_from_the_environment_is_taken_and_never_stopped(monkeypatch: pytest.MonkeyPatch, redis: Server) -> None:
    monkeypatch.setenv("TXCOORD_TEST_REDIS", redis.url)
    with running("redis", silent) as given:
        assert (given.url, given.origin) == (redis.url, Origin.ENVIRONMENT)
        with pytest.raises(NotOursError, match="environment"):
            given.kill()
        with pytest.raises(NotOursError), given.stopped():
            pass


def test_a_driver_in_a_given_url_is_dropped(monkeypatch: pytest.MonkeyPatch, postgres: Server) -> None:
    monkeypatch.setenv("TXCOORD_TEST_POSTGRES", postgres.url.replace("postgresql:", "postgresql+asyncpg:"))
    with running("postgres", silent) as given:
        assert given.url == postgres.url


def test_an_address_that_does_not_answer_is_no_reason_to_start_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TXCOORD_SERVERS", raising=False)
    monkeypatch.setenv("TXCOORD_TEST_REDIS", "redis://127.0.0.1:1/0")
    with pytest.raises(UnavailableError, match="TXCOORD_TEST_REDIS") as caught, running("redis", silent):
        pass
    assert caught.value.absence is Absence.MISSING


def test_no_server_is_started_when_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXCOORD_SERVERS", "none")
    with pytest.raises(UnavailableError) as caught, running("redis", silent):
        pass
    assert caught.value.absence is Absence.SWITCHED_OFF


def run_pytest(directory: Path, test: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A session of its own over one test file."""
    (directory / "test_one.py").write_text(test)
    (directory / "pytest.ini").write_text("[pytest]\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TXCOORD_") and name != "CI"}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "pytest", "-p", "tests.servers.fixtures", "-p", "no:cacheprovider", "-rs", "test_one.py"]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_a_missing_server_is_named_and_fails_only_a_run_of_ci(tmp_path: Path, ci: str, code: int) -> None:
    done = run_pytest(tmp_path, ASKS_FOR_REDIS, TXCOORD_TEST_REDIS="redis://127.0.0.1:1/0", CI=ci)
    assert "redis: MISSING: TXCOORD_TEST_REDIS is set but nothing answers there" in done.stdout
    assert "1 skipped" in done.stdout
    assert done.returncode == code


@pytest.mark.parametrize(
    ("test", "variables", "line"),
    [
        (ASKS_FOR_MYSQL, {}, "mysql: UNTESTED: it has no package; set TXCOORD_TEST_MYSQL to its URL"),
        (ASKS_FOR_REDIS, {"TXCOORD_SERVERS": "none"}, "redis: SWITCHED OFF: TXCOORD_SERVERS=none"),
    ],
)
def test_an_untested_or_unwanted_server_is_named_and_fails_no_run(
    tmp_path: Path, test: str, variables: dict[str, str], line: str
) -> None:
    done = run_pytest(tmp_path, test, CI="true", **variables)
    assert line in done.stdout
    assert "1 skipped" in done.stdout
    assert done.returncode == 0


@pytest.mark.usefixtures("redis")
def test_a_started_server_is_shown_at_once_and_in_the_summary(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, ASKS_FOR_REDIS + ASKS_FOR_REDIS.replace("test_it", "test_again"), CI="true")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("redis: started") == 1
    assert "answered after" in done.stdout


@pytest.mark.usefixtures("here")
def test_the_command_line_runs_a_command_with_the_addresses_and_hands_on_its_exit_code() -> None:
    probe = "import os, redis; redis.Redis.from_url(os.environ['TXCOORD_TEST_REDIS']).ping(); raise SystemExit(7)"
    command = [sys.executable, "-m", "tests.servers", "redis", "--for", sys.executable, "-c", probe]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("TXCOORD_TEST_REDIS=redis://127.0.0.1:")


def test_the_command_line_says_what_it_cannot_have() -> None:
    command = [sys.executable, "-m", "tests.servers", "mysql"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TXCOORD_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "mysql: it has no package; set TXCOORD_TEST_MYSQL to its URL\n")


class EngineHandler(socketserver.StreamRequestHandler):
    """Answers the ping of a container engine, or never."""

    answer = b""

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(self.answer)
        if not self.answer:
            self.rfile.read(1)


@pytest.mark.parametrize(
    ("answer", "there"), [(b"HTTP/1.0 200 OK\r\n\r\nOK", True), (b"HTTP/1.0 500 Oops\r\n\r\n", False), (b"", False)]
)
def test_an_engine_is_there_when_it_answers_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, there: bool
) -> None:
    handler = type("Handler", (EngineHandler,), {"answer": answer})
    path = tmp_path / "engine.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    started = time.monotonic()
    assert not engine_answers()
    with socketserver.ThreadingUnixStreamServer(str(path), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        assert engine_answers() is there
        server.shutdown()
    assert time.monotonic() - started < 2


def test_the_lock_of_the_cache_holds_between_processes_and_ends_with_its_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    hold = "import time; from tests.servers.cache import locked\nwith locked('x'):\n  print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold], cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        entered = threading.Event()

        def enter() -> None:
            with locked("x"):
                entered.set()

        entering = threading.Thread(target=enter)
        entering.start()
        assert not entered.wait(0.3)
        holder.kill()
        assert entered.wait(5)
        entering.join()
