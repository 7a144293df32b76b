"""Rules of a training step that every simulator obeys: tape, reductions, optimizer, self-check."""
