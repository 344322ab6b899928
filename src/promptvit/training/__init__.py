"""Training and evaluation."""

from promptvit.training.evaluation import Scores, evaluate
from promptvit.training.loop import Diverged, RunResult, train
from promptvit.training.probe import Heads, HeadSettings, extract, train_heads
from promptvit.training.settings import TrainSettings, resolve

__all__ = [
    "Diverged", "HeadSettings", "Heads", "RunResult", "Scores", "TrainSettings", "evaluate", "extract", "resolve", "train", "train_heads",
]
