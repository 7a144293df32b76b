"""Own runs of a user: constants fitted to them, held-out checks, what to measure next."""
