"""Message brokers behind one interface."""
