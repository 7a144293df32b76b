"""Closed-form times of collectives over groups of ranks.

Collectives that share links message by message are in `parplan.sim.cluster`.
"""
