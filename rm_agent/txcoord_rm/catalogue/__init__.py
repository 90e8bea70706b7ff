"""What a database's catalogue says of the tables that global transactions change."""
