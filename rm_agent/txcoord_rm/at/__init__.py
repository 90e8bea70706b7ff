"""AT mode: an engine's statements inside global transactions, and their second phases."""
