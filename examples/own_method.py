"""A method of one's own in one file: every block adds prompts to those that reach it, and all of them flow on.

    P_1 = E_1;   [c_l, Q_l, X_l] = B_l([c_{l-1}, P_l, X_{l-1}]);   P_{l+1} = [Q_l, E_{l+1}]

With E_1 alone it is VPT-shallow. docs/add-a-method.md explains this file.

    python examples/own_method.py --backbone mae-tiny --epochs 20
"""

import argparse
import tempfile

import torch
from torch import Tensor, nn

import promptvit
from promptvit.backbones.base import Backbone, Pass, per_image
from promptvit.methods import Method, MethodConfig, register
from promptvit.methods.init import uniform


class GrowingConfig(MethodConfig):
    """Options of ``vpt-growing``; ``num_prompts`` is what each block adds.

    Attributes:
        blocks: the first so many blocks add prompts; None: all of them.
    """

    blocks: int | None = None


@register("vpt-growing")
class Growing(Method):
    """Prompts ``[blocks, T, D]``: block l sees its own beside what became of those of the blocks before."""

    Config = GrowingConfig
    stacks = True  # encode() reads the last three dimensions of what is learned, so a batch may mix tasks

    def __init__(self, backbone: Backbone, config: GrowingConfig, generator: torch.Generator) -> None:
        super().__init__(backbone, config, generator)
        blocks = backbone.depth if config.blocks is None else config.blocks
        if not 1 <= blocks <= backbone.depth:
            raise ValueError(f"blocks: {backbone.name} has {backbone.depth}, got {blocks}; give 1 to {backbone.depth}")
        start = uniform(blocks, config.num_prompts, backbone.width, patch=backbone.patch_size, generator=generator)
        self.prompts = nn.Parameter(start)

    def encode(self, step: Pass) -> tuple[Tensor, Tensor | None]:
        x, p = step.tokens, None
        for i in range(step.depth):
            if i < self.prompts.shape[-3]:
                own = per_image(self.prompts[..., i, :, :], len(x))
                p = own if p is None else torch.cat([p, own], dim=1)
            x, p = step(i, x, p)
        return x, p


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mae-tiny", help="bundled or timm name, or a checkpoint file")
    parser.add_argument("--method", default="vpt-growing")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--shots", type=int, default=20, help="training images per class")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        run = promptvit.train(
            backbone=args.backbone, method=args.method, data="digits", shots=args.shots, epochs=args.epochs, head_lr=0.1, out=folder
        )
    print(f"{run.result['num_trainable']:,} weights learned")
    print(f"test accuracy: {run.result['accuracy']:.4f}")


if __name__ == "__main__":
    main()
