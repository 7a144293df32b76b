"""Time of a kernel or message: measured, interpolated or modelled, with its evidence.

The models that it falls back on are in `parplan.hardware.kernels`.
"""
