"""Models as chains of layers, which a pipeline can cut."""
