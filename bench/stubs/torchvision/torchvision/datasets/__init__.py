"""Names that Mosaic Streaming imports."""


class VisionDataset: ...


class CIFAR10: ...
