"""Tiers, links, fabrics and the placement of ranks on them.

Times of collectives over them are in `parplan.hardware.collectives`.
"""
