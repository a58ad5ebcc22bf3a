"""A stand-in for torchvision, which Mosaic Streaming imports and nothing that is measured here calls."""
