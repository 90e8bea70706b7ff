"""The code of the how-to pages does what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from txcoord_sdk.testing import CoordinatorProcess, wait_until

from tests.docs.conftest import OpenPage
from tests.servers import free_port


def test_fastapi(open_page: OpenPage) -> None:
    page = open_page("how-to/fastapi.md")
    page.run("""
import httpx, stock
from fastapi.testclient import TestClient
from sqlalchemy import text
from txcoord_sdk.carriers.httpx import TransactionTransport
from txcoord_sdk.testing import CoordinatorProcess, wait_until

def books():
    with stock.engine.connect() as conn:
        return tuple(conn.execute(text("SELECT free, reserved, sold FROM stock")).one())

with stock.engine.begin() as conn:
    conn.execute(text("CREATE TABLE stock (sku TEXT, free INT, reserved INT, sold INT)"))
    conn.execute(text("INSERT INTO stock VALUES ('apple', 10, 0, 0)"))
with TestClient(stock.app) as http:
    bought = {"sale_id": "1", "sku": "apple", "quantity": 3}
    assert http.post("/orders", params=bought).json() == "sold"
    assert books() == (7, 0, 3)
    assert stock.client.status(key="sale:1").decision == "COMMIT"
    assert http.post("/orders", params=bought | {"quantity": 30}).status_code == 409
    assert http.post("/orders", params={"sale_id": "2"}).status_code == 422
    with stock.client.global_transaction() as transaction:
        headers = {"txcoord-xid": transaction.xid()}
        assert http.post("/reservations", params={"sku": "apple", "quantity": 2}, headers=headers).json() == "reserved"
        assert books() == (5, 2, 3)
    wait_until(lambda: books() == (5, 0, 5))
    answer = http.post("/reservations", params={"sku": "apple", "quantity": 1}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (503, "NOT_ACTIVE"), answer.text
    assert books() == (5, 0, 5)
""")


def test_the_xid_travels(open_page: OpenPage) -> None:
    port, wsgi_port = str(free_port()), str(free_port())
    page = open_page("how-to/propagate-xid.md", {"127.0.0.1:8001": f"127.0.0.1:{port}"})
    with page.process("uvicorn", "served:app", "--port", port, ready="Uvicorn running"):
        page.run(f"""
import asyncio, grpc, threading, wsgiref.simple_server
import httpx
import by_hand, calls, guarded, served
from fastapi.testclient import TestClient
from txcoord_sdk import acurrent_headers, current, suspend
from txcoord_sdk.carriers.httpx import TransactionTransport

server = wsgiref.simple_server.make_server("127.0.0.1", {wsgi_port}, served.application)
threading.Thread(target=server.serve_forever, daemon=True).start()

async def in_coroutines():
    async with calls.open_aiohttp() as http, http.get("/xid") as answer:
        return [(await calls.async_stock.get("/xid")).json(), await answer.json()]

with served.client, served.client.global_transaction() as transaction:
    xid = transaction.xid()
    assert calls.stock.get("/xid").json() == xid
    assert calls.session.get("http://127.0.0.1:{port}/xid").json() == xid
    assert asyncio.run(in_coroutines()) == [xid, xid]
    assert httpx.Client(transport=TransactionTransport()).get("http://127.0.0.1:{wsgi_port}/").text == xid
    with suspend():
        assert calls.stock.get("/xid").json() == "none"
    seen = []
    by_hand.ask(lambda body, headers: by_hand.handle(body, headers, lambda body: seen.append(current().xid())))
    assert seen == [xid]
    http = TestClient(guarded.app, client=("192.0.2.1", 1))
    assert http.get("/", headers={{"txcoord-xid": xid}}).status_code == 403
    assert TestClient(guarded.app, client=("10.1.2.3", 1)).get("/", headers={{"txcoord-xid": xid}}).status_code == 404

async def grpc_ends():
    served.make_aio_server()
    await calls.open_aio_channel().close()

asyncio.run(grpc_ends())
served.make_server()
""")


def test_celery(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page("how-to/celery.md")
    for name in ("q", "c", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "celeryconfig.py").write_text(f"""
broker_url, result_backend = "filesystem://", "file://{tmp_path}/results"
place = "{tmp_path}"
broker_transport_options = {{"data_folder_in": place + "/q", "data_folder_out": place + "/q", "control_folder": place + "/c"}}
imports = ["shop.orders", "shop.waiting"]
""")
    command = ("celery", "-A", "shop.tasks", "worker", "--pool", "prefork", "-c", "1", "--without-gossip", "-l", "info")
    with page.process(*command, ready="ready."):
        page.run(
            """
from shop import orders, tasks, waiting
from txcoord_sdk.testing import CoordinatorProcess, wait_until

own = tasks.reward.delay("ada").get(timeout=40)
assert own.startswith("default.")
inner, outer = waiting.order_and_wait()
assert inner == outer != own
assert [b.status for b in tasks.client.status(outer).branches] == ["SETTLED"]
sent = []
tasks.reward.delay = lambda customer: sent.append(customer)
orders.order()
assert sent == ["ada"]
"""
        )


def test_django(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page("how-to/django.md", DJANGO_SETTINGS_MODULE="shop.settings")
    (tmp_path / "shop" / "settings.py").write_text(f"""
SECRET_KEY, ROOT_URLCONF, ALLOWED_HOSTS = "only here", "shop.urls", ["testserver"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "{tmp_path}/shop.db"}}}}
""")
    (tmp_path / "shop" / "urls.py").write_text("""
from django.urls import path
from shop import views
urlpatterns = [path("reserve", views.reserve), path("buy", views.buy)]
""")
    page.run("""
import httpx
from shop.wsgi import application, client
from django.db import connection
from txcoord_sdk.carriers.httpx import TransactionTransport
from txcoord_sdk.testing import CoordinatorProcess, wait_until

def books():
    with connection.cursor() as cursor:
        return cursor.execute("SELECT free, held FROM shop_account").fetchone()

with connection.cursor() as cursor:
    cursor.execute("CREATE TABLE shop_account (customer TEXT, free INT, held INT)")
    cursor.execute("INSERT INTO shop_account VALUES ('ada', 10, 0)")
shop = httpx.Client(transport=TransactionTransport(httpx.WSGITransport(application)), base_url="http://testserver")
assert shop.get("/buy").text == "bought"
assert books() == (9, 0)
with client.global_transaction():
    assert shop.get("/reserve?points=3").text == "held"
    assert books() == (6, 3)
    assert shop.get("/reserve?points=30").status_code == 409
wait_until(lambda: books() == (6, 0))
client.close()
""")


def test_retries(open_page: OpenPage) -> None:
    page = open_page("how-to/retries.md")
    page.run("""
import page
from txcoord_sdk import current

real, attempts = page.record.action.attempt.function, []

with page.client:
    assert page.place("17") == "17"
    assert page.client.status(key="order:17").decision == "COMMIT"

    @page.global_transaction(timeout=10, retries=3)
    def vetoed() -> str:
        attempts.append(current().xid())
        if len(attempts) < 3:
            current().set_rollback_only("not yet")
        return current().xid()

    assert vetoed() == attempts[2]
    assert len(set(attempts)) == 3

    @page.global_transaction(timeout=10, retries=3)
    def refuses() -> None:
        attempts.append("own")
        raise ValueError

    try:
        refuses()
    except ValueError:
        pass
    assert attempts.count("own") == 1
""")


def test_a_users_tests(open_page: OpenPage) -> None:
    page = open_page("how-to/test-your-service.md")
    printed = page.run("", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", timeout=100)
    assert "3 passed" in printed


def test_gunicorn(open_page: OpenPage, tmp_path: Path) -> None:
    port = free_port()
    page = open_page("how-to/prefork.md")
    answers: set[str] = set()
    with page.process("gunicorn", "-c", "gunicorn.conf.py", "--bind", f"127.0.0.1:{port}", "shop:app", ready="Booting worker"):

        def both_have_answered() -> bool:
            ask = f"import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:{port}/').read().decode())"
            answers.add(subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout)
            return len({answer.split()[0] for answer in answers}) == 2

        wait_until(both_have_answered, 30, "an answer of each worker")
    assert len({answer.split()[1] for answer in answers}) == len(answers)


def test_secure(open_page: OpenPage, txcoord_coordinator: CoordinatorProcess) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    page = open_page("how-to/secure.md", {"sqlite:///txcoord.db": txcoord_coordinator.store}, PATH=path)
    made, replaced = page.shell()
    assert made.count("txc_") == 3
    assert [line.split()[0] for line in made.splitlines()[-3:]] == ["anna", "order-2026", "stock-2026"]
    assert replaced.endswith("dropped order-2026\n")
