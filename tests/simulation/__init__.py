"""Deterministic simulation: the real coordinator, session and fence on virtual time, with every fault, from a seed."""
