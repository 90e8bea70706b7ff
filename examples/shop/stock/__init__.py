"""The stock service of the shop."""

from __future__ import annotations
