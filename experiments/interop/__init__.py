"""Plans to and from the configurations of training software."""
