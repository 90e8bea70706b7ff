"""How fast a coordinator is: the load generator of `txcoord bench` and of the project's own benchmarks."""
