"""Running a planner: budget, record, workers, report."""
