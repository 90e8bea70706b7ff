"""The coordinator's rules: pure functions and plain objects. No I/O, no clock, no database, no gRPC."""
