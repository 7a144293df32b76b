"""Transformer architectures: presets, parameter counts, and configs of Hugging Face.

The operations of their layers are in `parplan.sim.layers`.
"""
