"""The README's code runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from sqlalchemy import create_engine, text
from txcoord_sdk.testing import CoordinatorProcess

README = Path(__file__).parent.parent.parent / "README.md"
CALL = """
with client:
    place_order("apple", 2)
    try:
        place_order("apple", 6)
    except Exception as error:
        assert "CHECK" in str(error), error
    else:
        raise AssertionError("no order is for more than five")
"""


def test_the_first_example(txcoord_coordinator: CoordinatorProcess, tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    assert code[1].startswith("from txcoord_sdk import")
    stock, orders = (create_engine(f"sqlite:///{tmp_path}/{name}.db") for name in ("stock", "orders"))
    with stock.begin() as connection:
        connection.execute(text("CREATE TABLE stock (sku text PRIMARY KEY, free int)"))
        connection.execute(text("INSERT INTO stock VALUES ('apple', 10)"))
    with orders.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id integer PRIMARY KEY, sku text, quantity int CHECK (quantity <= 5))"))
    program = tmp_path / "example.py"
    program.write_text(code[1].replace("127.0.0.1:8190", txcoord_coordinator.address) + CALL)
    done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    with stock.connect() as connection:
        assert connection.execute(text("SELECT free FROM stock")).all() == [(8,)]
    with orders.connect() as connection:
        assert connection.execute(text("SELECT sku, quantity FROM orders")).all() == [("apple", 2)]
    stock.dispose()
    orders.dispose()
