"""Rotating activations and weights so that outliers spread over many features."""
