"""Features of a region in an image, by the definitions of the IBSI (Zwanenburg et al., 2020)."""
