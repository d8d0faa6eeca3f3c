"""Replies under a value module while it is trained, for whoever judges them."""

from collections.abc import Sequence

import torch

from workbench.backbone.protocol import Backbone, Prompt
from workbench.guidance.decoding import generate
from workbench.guidance.sampling import Sampling
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.svgt.value_module import ValueModule


def sampled_replies(
    backbone: Backbone,
    module: ValueModule,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    seed: int,
    batch_size: int,
) -> list[str]:
    """What the guided model says at temperature 1, with the bridge written once.

    ``batch_size`` prompts are answered at a time, with random numbers from one generator.
    """
    generator = torch.Generator().manual_seed(seed)
    texts: list[str] = []
    for start in range(0, len(prompts), batch_size):
        replies = generate(
            backbone,
            prompts[start : start + batch_size],
            SVGTBridge(module, refresh=None),
            max_new_tokens=max_new_tokens,
            sampling=Sampling(temperature=1.0, top_p=1.0),
            generator=generator,
        )
        texts += [reply.text for reply in replies]
    return texts
