"""What sits beside a business database: AT and XA."""

from __future__ import annotations

from txcoord_rm.at.enroll import enroll
from txcoord_rm.at.guard import global_lock

__all__ = ["enroll", "global_lock"]
