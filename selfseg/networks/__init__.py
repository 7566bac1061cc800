"""Network architectures, built from plan options."""
