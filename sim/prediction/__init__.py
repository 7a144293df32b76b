"""From a plan to its predicted step: compile it (lists, costs, memory), then simulate it."""
