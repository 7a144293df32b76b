"""Commands that use this machine: calibrate, execute, train, dry-run, compare, demo."""
