"""The verdict on one plan, and the caches that make thousands of verdicts cheap."""
