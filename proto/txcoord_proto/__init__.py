"""The wire format and the kernel that all parts share: identities, states, error codes, header names."""
