"""Self-Prompt Tuning (Wang et al., ICML 2024): VPT whose prompts start as token prototypes of the target data.

Only the start differs, so this file holds two presets; the samplers are in ``init.py`` and serve the other methods too.
"""

from promptvit.methods.base import register
from promptvit.methods.vpt import VPT


@register("spt-shallow", init="random")
@register("spt-deep", init="random", deep=True)
class SPT(VPT):
    """VPT with ``init`` set to ``random`` tokens, ``kmeans`` centres, or ``mean`` or ``max`` pooled windows."""
