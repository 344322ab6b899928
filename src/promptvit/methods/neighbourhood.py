"""SA2VP's cross-attention: a patch attends to the 3x3 neighbourhood of its own place in the other branch, prefix tokens to all.

Source: parity notes of the authors' code (``vit_tinypara.py``: ``exact``; ``vit_tinypara_acc.py``: ``padded``).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Neighbourhood(nn.Module):
    """Attention of tokens ``[prefix, patches]`` over another sequence of the same layout, both ``[B, heads, P+N, d]``.

    A row of patches meets three rows of keys, of which a mask keeps 3x3: no gather of nine copies, no N x N scores.

    Args:
        grid: rows and columns of patches.
        prefix: tokens in front of them.
        padded: a neighbour outside the grid is a zero key with a zero value that takes part in the softmax; otherwise it is left out.
    """

    mask: Tensor

    def __init__(self, grid: tuple[int, int], prefix: int, padded: bool) -> None:
        super().__init__()
        self.grid, self.prefix, self.padded = grid, prefix, padded
        rows, columns = grid
        near = (torch.arange(columns + 2) - 1 - torch.arange(columns)[:, None]).abs() <= 1
        allowed = near.repeat(1, 3).expand(rows, columns, 3 * (columns + 2))
        if not padded:
            inside = F.pad(torch.ones(grid, dtype=torch.bool), (1, 1, 1, 1)).flatten()
            allowed = allowed & inside.unfold(0, 3 * (columns + 2), columns + 2)[:, None]
        self.register_buffer("mask", allowed.clone(), persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Joined heads ``[B, S, D]`` for the queries given: all tokens, or the prefix only."""
        batch = max(len(q), len(k))
        q, k, v = (t.expand(batch, -1, -1, -1) for t in (q, k, v))
        prefix = F.scaled_dot_product_attention(q[:, :, : self.prefix], k, v)
        if q.shape[2] == self.prefix:
            return prefix.transpose(1, 2).flatten(2)
        asking = q[:, :, self.prefix :].unflatten(2, self.grid).flatten(0, 1)
        patches = F.scaled_dot_product_attention(asking, self._bands(k), self._bands(v), attn_mask=self.mask)
        patches = patches.flatten(1, 2).unflatten(0, (batch, -1))
        return torch.cat([prefix, patches], dim=2).transpose(1, 2).flatten(2)

    def _bands(self, t: Tensor) -> Tensor:
        """``[B, heads, P+N, d]`` to ``[B*heads, rows, 3 (columns+2), d]``: for each row, the zero-padded three around it."""
        padded = F.pad(t[:, :, self.prefix :].unflatten(2, self.grid), (0, 0, 1, 1, 1, 1)).flatten(0, 1).flatten(1, 2)
        step = self.grid[1] + 2
        return padded.unfold(1, 3 * step, step).transpose(-1, -2)

    def plain(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same for all tokens, by its definition: nine neighbours of each patch, one by one."""
        batch = max(len(q), len(k))
        q, k, v = (t.expand(batch, -1, -1, -1) * 1.0 for t in (q, k, v))
        scale = q.shape[-1] ** -0.5
        prefix = (scale * q[:, :, : self.prefix] @ k.transpose(-1, -2)).softmax(-1) @ v
        neighbours, values = self._nine(k[:, :, self.prefix :]), self._nine(v[:, :, self.prefix :])
        scores = scale * (q[:, :, self.prefix :].unsqueeze(-2) * neighbours).sum(-1)
        if not self.padded:
            inside = self._nine(torch.ones_like(k[:1, :1, self.prefix :, :1])).squeeze(-1) > 0
            scores = scores.masked_fill(~inside, float("-inf"))
        patches = (scores.softmax(-1).unsqueeze(-1) * values).sum(-2)
        return torch.cat([prefix, patches], dim=2).transpose(1, 2).flatten(2)

    def _nine(self, t: Tensor) -> Tensor:
        """``[B, heads, N, d]`` to ``[B, heads, N, 9, d]``, zeros outside the grid."""
        rows, columns = self.grid
        padded = F.pad(t.unflatten(2, self.grid), (0, 0, 1, 1, 1, 1))
        shifts = [padded[:, :, y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
        return torch.stack(shifts, dim=-2).flatten(2, 3)
