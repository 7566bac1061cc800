"""Center lines of masks that keep the topology, and topology in numbers."""

from selfseg.skeletons.betti import betti_numbers
from selfseg.skeletons.thinning import thin

__all__ = ["betti_numbers", "thin"]
