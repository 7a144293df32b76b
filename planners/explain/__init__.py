"""Why this plan, what else is near, and how sure the answer is."""
