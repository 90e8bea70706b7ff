"""What sits beside a business database: AT and XA."""

from __future__ import annotations

from txcoord_rm.at.enroll import enroll
from txcoord_rm.at.guard import global_lock
from txcoord_rm.at.isolation import isolation
from txcoord_rm.wrapped.wrap import wrap
from txcoord_rm.xa.mode import mode

__all__ = ["enroll", "global_lock", "isolation", "mode", "wrap"]
