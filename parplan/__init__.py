"""Find the fastest parallel plan for training a large model, and check the prediction."""
