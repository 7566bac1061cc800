"""Frozen, typed values that flow between the stages."""
