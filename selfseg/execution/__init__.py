"""Run a function over many items: local processes."""
