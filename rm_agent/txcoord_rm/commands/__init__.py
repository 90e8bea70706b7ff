"""Subcommands of `txcoord-agent`."""
