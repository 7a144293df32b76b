"""The command line, experiments and reports. The entry point is `cli`."""
