"""Random transforms of training patches: drawn once, applied on CPU or GPU."""
