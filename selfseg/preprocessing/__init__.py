"""From image files to training arrays, and predictions back to native geometry."""
