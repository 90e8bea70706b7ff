"""gRPC: the stream and the unary methods, who is calling, and the conversion between wire and domain."""
