"""Measures networks and runs; gives tables."""
