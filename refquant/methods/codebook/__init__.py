"""Codebooks fitted to a distribution."""
