"""Writers of plans for other software."""
