"""One stream to the coordinator and what must survive its breaking."""
