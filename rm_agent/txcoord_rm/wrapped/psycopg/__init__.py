"""psycopg's connections and cursors, synchronous or not, wrapped."""
