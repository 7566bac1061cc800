"""Measure a dataset: facts, no decisions."""
