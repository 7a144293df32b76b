"""Prediction of a step from a plan: compile it (lists, costs, memory), then simulate it."""
