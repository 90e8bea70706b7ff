"""Putting rows back as they were, or saying why not."""
