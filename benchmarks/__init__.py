"""Measurements that a reader can repeat: ratios of two things that ran alternately in one process."""
