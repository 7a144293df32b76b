"""Experiments on pipelines: bubbles, schedules, layouts, scaling."""
