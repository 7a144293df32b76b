"""The one line in a user's training script."""
