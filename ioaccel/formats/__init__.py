"""Where samples lie inside objects, so that a few bytes of a large one can be read as a sample."""
