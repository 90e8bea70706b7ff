"""Distributed locks on a database, Redis or ZooKeeper."""
