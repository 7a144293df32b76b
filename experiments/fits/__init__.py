"""Fits of kernels and collectives to published measurements."""
