"""Lower bounds on step time and memory: of plans, groups, boxes and whole spaces."""
