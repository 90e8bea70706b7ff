"""Migrations of the coordinator's schema."""
