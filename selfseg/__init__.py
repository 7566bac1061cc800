"""selfseg: self-configuring medical image segmentation."""
