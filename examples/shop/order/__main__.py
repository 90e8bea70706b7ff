"""`python -m examples.shop.order --port N`."""

from __future__ import annotations

from examples.shop.order.service import app
from examples.shop.server import serve

serve(app)
