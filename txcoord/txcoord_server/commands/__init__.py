"""What a person types: each command speaks the public wire to a running coordinator and knows nothing of its inside.

Only `token` opens the store itself, since the first token cannot be made with one.
"""
