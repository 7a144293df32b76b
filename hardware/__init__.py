"""Models of accelerators and interconnects: kernels, collectives, presets, measured profiles.

Nothing here knows of training, plans or models.
"""
