"""From the features of segmented lesions to the probability of a class, in nested validation."""
