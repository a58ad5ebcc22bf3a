"""Reads that a program makes in its own way, served by the cache.

While a `Scope` is entered, files that are opened through fsspec, or with `open` below given
directories, come from the cache. Each shim asks first whether it is inside a scope, and calls the
original function with the original arguments whenever it is not, or when the cache cannot serve the
read, whatever the reason: so results and errors stay those of the program without ioaccel.
"""
