"""Replay of parity vectors: our code on the weights and inputs of a file that the authors' code has produced."""

from promptvit.testing.replay import replay

__all__ = ["replay"]
