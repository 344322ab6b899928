"""Data sets and batches. Knows nothing of backbones and methods."""

from promptvit.data import digits, folder, torchvision_sets  # noqa: F401  (readers register themselves)
from promptvit.data.base import Dataset, Split
from promptvit.data.images import BadImage, open_image
from promptvit.data.listed import fgvc, vtab  # noqa: F401
from promptvit.data.loader import Batch, Pixels, batches
from promptvit.data.proc import scenes, sets  # noqa: F401
from promptvit.data.registry import list_datasets, load_dataset
from promptvit.data.segmentation import ade20k, masked_folder  # noqa: F401
from promptvit.data.segmentation.base import MaskedSplit, SegmentationDataset
from promptvit.data.segmentation.registry import load_segmentation

__all__ = [
    "BadImage", "Batch", "Dataset", "MaskedSplit", "Pixels", "SegmentationDataset", "Split",
    "batches", "list_datasets", "load_dataset", "load_segmentation", "open_image",
]
