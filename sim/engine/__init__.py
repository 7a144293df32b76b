"""The SimPy discrete-event simulator of one pipeline: the reference.

Evaluators that are proven equal to it are in `parplan.sim.fast`.
"""
