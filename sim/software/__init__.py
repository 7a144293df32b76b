"""What the training software adds to a plan: overheads and habits."""
