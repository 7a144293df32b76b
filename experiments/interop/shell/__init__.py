"""Shell scripts read by their syntax tree; nothing is executed."""
