"""Text for other programs, from values alone."""
