"""What was learned, as arrays. Nothing here knows of the command line, of run folders or of pictures."""

from promptvit.analysis.attention import attend, grid_at, head_maps, looker, prompt_share, readout_map, rollout
from promptvit.analysis.forgetting import decodable
from promptvit.analysis.predictions import calibration, confident_mistakes, confusion, hardest, probabilities
from promptvit.analysis.recorder import Attention, Recorder
from promptvit.analysis.sensitivity import sensitivity
from promptvit.analysis.similarity import cka, nmi, similarity

__all__ = [
    "Attention", "Recorder", "attend", "calibration", "cka", "confident_mistakes", "confusion", "decodable", "grid_at", "hardest",
    "head_maps", "looker", "nmi", "probabilities", "prompt_share", "readout_map", "rollout", "sensitivity", "similarity",
]
