"""A start without labels: a network learns to paint what was masked in images."""
