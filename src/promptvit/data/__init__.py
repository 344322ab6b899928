"""Data sets and batches. Knows nothing of backbones and methods."""

from promptvit.data import digits, folder, torchvision_sets  # noqa: F401  (readers register themselves)
from promptvit.data.base import Dataset, Split
from promptvit.data.images import BadImage, open_image
from promptvit.data.listed import fgvc, vtab  # noqa: F401
from promptvit.data.loader import Batch, Pixels, batches
from promptvit.data.proc import sets  # noqa: F401
from promptvit.data.registry import list_datasets, load_dataset

__all__ = ["BadImage", "Batch", "Dataset", "Pixels", "Split", "batches", "list_datasets", "load_dataset", "open_image"]
