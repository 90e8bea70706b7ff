"""Requests step the domain, group commits make it durable, answers follow; and who leads."""
