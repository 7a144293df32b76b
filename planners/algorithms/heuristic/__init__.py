"""Planners that sample or descend, within a budget and without a proof."""
