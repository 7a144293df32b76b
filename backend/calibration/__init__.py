"""Measuring this machine: kernels, messages, layers, optimizer.

The profile that comes of it is read by `parplan.hardware.estimates`.
"""
