"""What ``storage_options`` and the environment say, in the words of the libraries that read the store.

One module a store. This runs in the client, which has the user's environment; the engine, another
process with another one, gets the result and looks nowhere else.
"""
