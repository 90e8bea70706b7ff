"""`python -m examples.shop.balance --port N`."""

from __future__ import annotations

from examples.shop.balance.service import app
from examples.shop.server import serve

serve(app)
