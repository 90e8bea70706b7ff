"""XA mode: local transactions that the database itself prepares, and that end as the global one was decided."""
