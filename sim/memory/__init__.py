"""Bytes per rank: peak, over time, and as a snapshot for torch's viewers."""
