"""Where the coordinator's decisions become durable: SQLite, PostgreSQL, MariaDB or MySQL."""
