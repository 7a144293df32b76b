"""Accelerators and clusters by name: presets, files of the user's own, measured profiles."""
