"""Global transactions in service code: the object, the decorator, the block."""
