"""Sliding-window prediction in native geometry."""
