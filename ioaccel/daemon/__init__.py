"""The engine as a process: its socket, its life and its end."""
