"""What AP logs, and the verdicts of its stack beside those of the default one."""
