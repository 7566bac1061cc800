"""Images and datasets on disk; the only package that knows ITK axis order."""
