"""The only package that knows the file names of a workspace."""
