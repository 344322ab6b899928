"""Many tasks on one frozen backbone."""

from promptvit.serving.bank import BankPredictions, PromptBank

__all__ = ["BankPredictions", "PromptBank"]
