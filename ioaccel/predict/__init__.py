"""What a training job will take: hit share, requests, bytes, seconds, money, and busy accelerators.

``inputs``   what is assumed of the job (`Workload`), the store (`Store`) and a node (`Node`)
``epochs``   `predict`: an epoch at a time; `predict_direct`: the same job without a cache
``scale``    `efficiency`: the share of time that accelerators compute, over their number
``measure``  `measure`: what store and node do, measured with a few hundred requests
``picture``  the efficiencies as a chart

docs/design/0004-plan.md says how, and what is left out.
"""

from ioaccel.predict.epochs import EpochPrediction, predict, predict_direct
from ioaccel.predict.inputs import Node, Store, Workload
from ioaccel.predict.scale import Efficiency, efficiency

__all__ = [
    "Efficiency",
    "EpochPrediction",
    "Node",
    "Store",
    "Workload",
    "efficiency",
    "predict",
    "predict_direct",
]
