"""promptvit: adapt a frozen Vision Transformer to a new task by learning a few visual prompts and a head."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptvit.backbones.base import Backbone, reference_path
    from promptvit.backbones.loading import list_backbones, load_backbone
    from promptvit.data import list_datasets, load_dataset
    from promptvit.methods import list_methods
    from promptvit.model import PromptedModel, create_model
    from promptvit.serving import PromptBank
    from promptvit.training import RunResult, TrainSettings, train

__version__ = "0.1.0"

_WHERE = {
    "Backbone": "backbones.base",
    "reference_path": "backbones.base",
    "list_backbones": "backbones.loading",
    "load_backbone": "backbones.loading",
    "list_datasets": "data",
    "load_dataset": "data",
    "list_methods": "methods",
    "PromptedModel": "model",
    "create_model": "model",
    "PromptBank": "serving",
    "RunResult": "training",
    "TrainSettings": "training",
    "train": "training",
}
__all__ = [
    "Backbone",
    "PromptBank",
    "PromptedModel",
    "RunResult",
    "TrainSettings",
    "create_model",
    "list_backbones",
    "list_datasets",
    "list_methods",
    "load_backbone",
    "load_dataset",
    "reference_path",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that importing the package costs nothing."""
    if name in _WHERE:
        return getattr(import_module(f"promptvit.{_WHERE[name]}"), name)
    if name in ("testing", "analysis", "experiments"):
        return import_module(f"promptvit.{name}")
    raise AttributeError(f"module 'promptvit' has no attribute {name!r}")
