"""Experiments of the Megatron-LM papers."""
