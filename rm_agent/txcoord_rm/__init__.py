"""What sits beside a business database: AT and XA."""

from __future__ import annotations

from txcoord_rm.at.enroll import enroll

__all__ = ["enroll"]
