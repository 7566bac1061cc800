"""The choice of configurations, ensembles and post-processing by cross-validation."""
