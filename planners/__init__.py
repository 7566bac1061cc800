"""Decision rules: pure functions from facts to plan values, each with its reason."""
