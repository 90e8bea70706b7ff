"""How the arguments of a try reach confirm and cancel: explicit, typed by the try's annotations, readable as JSON.

A plan is compiled once per function. What it cannot carry is refused when the decorator is applied; nothing is ever pickled or
imported by name. JSON does not say what a value is, the plan does: a `Decimal` keeps its digits, a datetime its zone.
"""

from __future__ import annotations

from txcoord_sdk.codec.arguments import ArgumentPlan, annotations_of

__all__ = ["ArgumentPlan", "annotations_of"]
