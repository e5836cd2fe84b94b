"""Measure what a recovery did to a set."""
