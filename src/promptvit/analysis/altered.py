"""Models that behave otherwise for a while: without dropout, or with blocks that are recorded or see no prompts."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from promptvit.backbones.base import Backbone, Block

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, ``model`` is in evaluation mode; afterwards in the mode that it had."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def altered(backbone: Backbone, change: Callable[[Sequence[Block], tuple[int, int]], None]) -> Iterator[None]:
    """Inside, every forward that this thread sends through ``backbone`` runs on block views that ``change`` has been given first.

    ``change`` gets the views of all blocks, and the patches of the images as (rows, columns). Views live for one forward, so nothing
    of the change stays. Other threads may use the backbone meanwhile and see nothing of it; one that wants to alter a backbone too
    waits for its turn.
    """
    with _ONE_AT_A_TIME:
        thread, before, blocks = threading.get_ident(), backbone.__dict__.get("blocks"), backbone.blocks

        def changed(grid: tuple[int, int] | None = None) -> Sequence[Block]:
            views = blocks(grid)
            if threading.get_ident() == thread:
                change(views, grid or backbone.grid)
            return views

        backbone.__dict__["blocks"] = changed
        try:
            yield
        finally:
            if before is None:
                del backbone.__dict__["blocks"]
            else:
                backbone.__dict__["blocks"] = before
