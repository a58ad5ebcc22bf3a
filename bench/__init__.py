"""Benchmarks: ratios to a limit or a peer, measured in one run. ``python -m bench micro``, ``torch``."""
