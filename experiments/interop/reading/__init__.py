"""All import sources by name, and exported files read back by them."""
