"""Models of nnU-Net v2, read and turned into records and tensors of ours."""
