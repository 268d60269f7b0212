"""Draws from the tables of `akt_lab.analysis`; measures nothing."""
