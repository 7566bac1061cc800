"""Loss terms, built from plan options."""
