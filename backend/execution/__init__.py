"""Running plans on this machine beside their predictions: jobs, runs, results."""
