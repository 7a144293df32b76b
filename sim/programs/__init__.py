"""Instruction lists: notation, order, messages, validation.

The schedules that produce them are in `parplan.sim.schedules`.
"""
