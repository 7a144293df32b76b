"""Time models of the kernels of one accelerator: products, attention, memory-bound kernels.

Measured times of one machine are in `parplan.hardware.estimates`.
"""
