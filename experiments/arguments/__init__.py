"""Groups of command-line arguments that several commands share."""
