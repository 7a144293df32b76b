"""The search for the fastest plan: spaces, planners, bounds, objectives, explanations."""
