"""Explorables: figures that recompute while you move them, in a live notebook and on the website without a kernel.

One module here for each figure: an anywidget class with its traits, their limits, and an example from the course's own models.
The figure itself is one ES module under `explorables/`. Needs ipywidgets and anywidget, which the `notebook` extra brings.
"""

from .base import Explorable
from .batch import Batch
from .block import Block
from .boxes import Boxes
from .cost import Cost
from .depth import Depth
from .hyperrule import Rule
from .judge import Judge
from .mask import Mask
from .mixup import MixUp
from .neighbors import Neighbors
from .norms import Norms
from .predict import Predict, asked
from .schedule import Schedule
from .search import Search
from .sizes import Sizes
from .softmax import Softmax
from .standardize import Standardize
from .transfermap import TransferMap

__all__ = [
    "Batch",
    "Block",
    "Cost",
    "Boxes",
    "Depth",
    "Explorable",
    "Judge",
    "Mask",
    "MixUp",
    "Neighbors",
    "Norms",
    "Predict",
    "Rule",
    "Schedule",
    "Search",
    "Sizes",
    "Softmax",
    "Standardize",
    "TransferMap",
    "asked",
]
