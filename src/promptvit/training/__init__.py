"""Training and evaluation."""

from promptvit.training.evaluation import Scores, evaluate
from promptvit.training.loop import Diverged, RunResult, train
from promptvit.training.settings import TrainSettings, resolve

__all__ = ["Diverged", "RunResult", "Scores", "TrainSettings", "evaluate", "resolve", "train"]
