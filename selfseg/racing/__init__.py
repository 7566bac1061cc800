"""Nominated ideas against the plain plan: same folds, same seeds, a paired test."""
