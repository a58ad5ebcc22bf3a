"""The writer of a cache: fetches, appends, publishes, evicts, recovers. One process a cache."""
