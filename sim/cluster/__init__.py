"""Whole clusters: every replica of a plan and every collective over shared links (SimPy).

One pipeline alone is simulated in `parplan.sim.engine`.
"""
