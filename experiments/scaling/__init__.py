"""Strong and weak scaling: the best plan at each size, and where efficiency is lost."""
