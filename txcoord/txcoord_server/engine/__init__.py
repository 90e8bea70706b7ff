"""The one loop: requests, domain, group commit, answers; and who leads."""
