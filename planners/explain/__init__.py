"""Explanations of a plan: reasons, nearby plans, uncertainty."""
