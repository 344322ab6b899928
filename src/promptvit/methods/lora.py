"""Low-rank adaptation (LoRA, Hu et al., ICLR 2022) of the attention projections, through Hugging Face ``peft``."""

import re
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from promptvit.backbones.base import Backbone
from promptvit.methods.base import MethodConfig, register
from promptvit.methods.baselines import Linear

# timm's names inside an attention module; Eva may keep queries, keys and values apart
_MODULES = {"qkv": ("qkv", "q_proj", "k_proj", "v_proj"), "proj": ("proj",)}


class LoRAConfig(MethodConfig):
    """Options of LoRA.

    Attributes:
        rank: of each update ``W + alpha / rank * B A``; ``A`` starts random, ``B`` at zero.
        alpha: see there; None: ``rank``, so that the update is not scaled.
        dropout: of the input of ``A``, in [0, 1).
        targets: which projections of every attention learn: ``qkv``, ``proj`` (output), or both.
    """

    rank: int = Field(8, ge=1)
    alpha: float | None = Field(None, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[Literal["qkv", "proj"], ...] = Field(("qkv",), min_length=1)


@register("lora")
class LoRA(Linear):
    """No prompts: low-rank updates learn beside the frozen projections, on a deep copy of the backbone."""

    Config: ClassVar[type[MethodConfig]] = LoRAConfig
    lr: ClassVar[float] = 1e-3

    def __init__(self, backbone: Backbone, config: LoRAConfig, generator: torch.Generator) -> None:
        super().__init__(backbone, config, generator)
        _peft()
        self.seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        self.dropouts = nn.ModuleList()

    def adapt(self, backbone: Backbone) -> Backbone:
        """The copy with LoRA layers. A backbone stays in evaluation mode, so the method leads its dropouts into training mode."""
        peft, config = _peft(), self.config
        pattern = rf"(layers\.\d+\.)?blocks\.\d+\.attn\.({'|'.join(name for target in config.targets for name in _MODULES[target])})"
        copy = backbone.trainable_copy()
        if not any(re.fullmatch(pattern, name) for name, _ in copy.model.named_modules()):
            raise ValueError(f"lora: no attention in the blocks of {backbone.name} has projections named {' or '.join(config.targets)}")
        lora = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.rank if config.alpha is None else config.alpha,
            lora_dropout=config.dropout,
            target_modules=pattern,
        )
        for module in copy.model.modules():
            if hasattr(module, "qkv_bias_separate"):  # Eva otherwise reads the packed weight and does not call the layer
                module.qkv_bias_separate = True
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            peft.inject_adapter_in_model(lora, copy.model)
        for name, parameter in copy.model.named_parameters():
            parameter.requires_grad_(".lora_" in name)
        copy.eval()
        self.dropouts.extend(m for n, m in copy.model.named_modules() if ".lora_dropout." in n and isinstance(m, nn.Dropout))
        return copy


def _peft() -> Any:
    """The package, imported when it is first needed.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import peft
    except ImportError:
        raise ImportError("lora: needs the package peft; install it with: pip install promptvit[peft]") from None
    return peft
