"""The fence: one row per branch in the service's own database, in the same local transaction as its effects."""
