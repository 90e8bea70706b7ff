"""Benchmarks: what the budgets say, measured with the defaults that users get."""
