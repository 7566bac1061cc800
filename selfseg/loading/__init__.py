"""Where patches are cut, and how batches reach the training loop."""
