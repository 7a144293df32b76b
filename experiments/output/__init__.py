"""Folders of results, journals, provenance, progress, tables of text."""
