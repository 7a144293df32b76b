"""Proxy models: small runs from which the step of a plan is predicted."""
