"""One pass and one product for images of different tasks."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from promptvit.heads.classification import LinearHead
from promptvit.methods import Method


def own_values(methods: Sequence[Method]) -> Method:
    """A method of the same flow in which image b sees what ``methods[b]`` learned.

    Args:
        methods: one for each image, of equal ``flow`` and with ``stacks``.
    """
    first, learned = methods[0], [dict(method.named_parameters()) for method in methods]
    stacked = {id(tensor): torch.stack([own[name] for own in learned]) for name, tensor in learned[0].items()}
    return copy.deepcopy(first, stacked)  # the copy has the stacked tensors in place of its own


def joined_heads(features: Tensor, heads: Sequence[LinearHead]) -> list[Tensor]:
    """Logits ``[C]`` of each row of ``features [B, D]`` under its own head, by one product.

    The heads stand one below the other. Padded to the largest, one of 10,000 classes would make every other as large.
    """
    different = list(dict.fromkeys(heads))
    weight, bias = torch.cat([head.weight for head in different]), torch.cat([head.bias for head in different])
    logits = F.linear(features.to(weight.dtype), weight, bias).split([head.out_features for head in different], dim=1)
    columns = dict(zip(different, logits, strict=True))
    return [columns[head][row].clone() for row, head in enumerate(heads)]  # a view would keep all tasks' logits alive
