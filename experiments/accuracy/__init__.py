"""Predictions beside measurements: tables, figures, traces."""
