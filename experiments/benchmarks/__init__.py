"""How fast and how good parplan is: simulator, planners, execution."""
