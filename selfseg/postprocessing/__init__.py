"""Cleaning of label maps."""
