"""The reader of a cache: connection, lookup, batches, files, and their asynchronous twins."""
