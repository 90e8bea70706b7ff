"""Connections of a driver that is used without SQLAlchemy, as parts of global transactions."""
