"""The compiled core: one module for each concept of csrc."""
