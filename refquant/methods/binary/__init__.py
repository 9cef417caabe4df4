"""Weights as sums of scaled signs."""
