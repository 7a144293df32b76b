"""Search of plans by parts that were measured on the processes that run."""
