"""Choosing the grid of a weight."""
