"""Simulation of whole clusters: all replicas and collectives over shared links (SimPy).

One pipeline alone is simulated in `parplan.sim.engine`.
"""
