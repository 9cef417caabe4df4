"""A run of conformance, for people (lines, one HTML page) and machines (JSON, JUnit XML)."""
