"""asyncpg's connections, transactions, prepared statements and cursors, wrapped."""
