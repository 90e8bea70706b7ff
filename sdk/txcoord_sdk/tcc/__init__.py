"""TCC: try, confirm, cancel as decorators."""
