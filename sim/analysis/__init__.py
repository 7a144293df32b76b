"""Explanations of a run: critical path, bubble, time split, evidence, residuals.

Figures of them are in `parplan.experiments.figures.gantt`.
"""
