"""Figures that several commands share."""
