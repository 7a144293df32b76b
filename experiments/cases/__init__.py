"""Published training runs: read, laid out as plans, and compared with predictions."""
