"""Software of training: overheads and habits that a plan does not express."""
