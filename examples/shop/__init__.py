"""A shop of three services with a database each, and a driver that shows what becomes of orders when things break."""

from __future__ import annotations
