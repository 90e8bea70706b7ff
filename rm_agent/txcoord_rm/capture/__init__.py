"""Statements with their before and after images: what is run instead of what the application wrote."""
