"""Seconds of every stage, from its layers, collectives and offloading.

Bytes are in `parplan.sim.memory`, kernel times in `parplan.hardware`.
"""
