"""Generated images with known truth, for the demo, the tests and experiments."""

from selfseg.phantoms.ct import LABELS, make_phantom, write_dataset

__all__ = ["LABELS", "make_phantom", "write_dataset"]
