"""`python -m examples.shop.stock --port N`."""

from __future__ import annotations

from examples.shop.server import serve
from examples.shop.stock.service import app

serve(app)
