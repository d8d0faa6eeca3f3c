"""One prompt that a person typed: what the bridge does to it, for looking at rather than testing.

There is no second reply to compare with, so the prompt's own two replies stand in: the guided one
as the safe reply, the unguided one as the harmful. Numbers of one prompt have no interval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.anchoring.attention import AttentionMass, attention_mass
from probes.anchoring.edits import replaced, write_bridges
from probes.anchoring.interventions import interventions, random_bridges
from probes.anchoring.paths import all_readers, path_margins
from probes.anchoring.scene import Scene, set_scene
from probes.margins import ReplyPairs
from workbench.arguments import Count, Seed, typed_arguments
from workbench.backbone.protocol import Backbone, Prompt
from workbench.errors import ConfigError
from workbench.guidance.decoding import Generation, HarmObserver, TraceRequest, generate
from workbench.guidance.none import NoGuidance
from workbench.guidance.sampling import Sampling
from workbench.guidance.svgt_bridge import SVGTBridge

GATES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
SAME_REPLY = "the guided and the unguided reply are the same, so no margin tells them apart"
CLOSED = "the gate is closed behind this prompt: the model does not see the slots"


@dataclass(frozen=True, eq=False)
class Reply:
    """A reply and its harm score along the way.

    Attributes:
        text: The reply.
        tokens: Its tokens' texts, the end token included.
        harm_score: s of the reply up to each token; None where the writer cannot score.
    """

    text: str
    tokens: tuple[str, ...]
    harm_score: Float[Tensor, " token"] | None


@dataclass(frozen=True, eq=False)
class PromptMargins:
    """Margins guided reply - unguided reply, in nats a token.

    Attributes:
        by_intervention: Under the interventions that one prompt allows.
        gates: Gate scales.
        by_gate: At each of them.
        heads: Share of the effect that is lost when a head does not see the slots, by block above
            L; NaN where there is no effect to share out.
        stream: The same for the last slot's stream.
    """

    by_intervention: Mapping[str, float]
    gates: tuple[float, ...]
    by_gate: tuple[float, ...]
    heads: Float[Tensor, "layer head"]
    stream: float


@dataclass(frozen=True, eq=False)
class PromptAnchoring:
    """Everything the live page shows of a prompt.

    Attributes:
        open: Whether the model sees the slots.
        trigger_score: Score of the prompt; above 0 means harmful.
        guided: The reply with the bridge.
        unguided: The reply of the plain model.
        layers: The blocks above L.
        steps: Tokens of the guided reply, which attention is read along.
        attention: On slots and sink by block, head and step of the guided reply; None where the
            gate is closed.
        control: The same where the slots hold noise of equal norm.
        margins: None where the gate is closed or both replies are the same.
        note: Why something is missing.
    """

    open: bool
    trigger_score: float
    guided: Reply
    unguided: Reply
    layers: tuple[int, ...]
    steps: tuple[str, ...]
    attention: AttentionMass | None
    control: AttentionMass | None
    margins: PromptMargins | None
    note: str = ""


@typed_arguments
def anchor_prompt(
    backbone: Backbone,
    guidance: SVGTBridge,
    prompt: Prompt,
    *,
    max_new_tokens: Count,
    seed: Seed,
    sampling: Sampling | None = None,
    gates: Sequence[float] = GATES,
) -> PromptAnchoring:
    """Draw both replies to a prompt and measure how the bridge is read and what it does.

    Args:
        backbone: The frozen model.
        guidance: Whose bridge is studied.
        prompt: A text or conversation.
        max_new_tokens: Limit of both replies.
        seed: Of sampling and of the random controls; both replies use the same random stream.
        sampling: How tokens are chosen; temperature 0.7 and top-p 0.9 by default.
        gates: Gate scales of the dose curve.

    Raises:
        TokenError: The prompt is empty or has unknown words.
        ContextLengthError: Prompt, slots and reply exceed the context.
        ConfigError: No gate scale, or a negative one.
    """
    if not gates or min(gates) < 0:
        raise ConfigError("give at least one gate scale, and none below 0")
    sampling = sampling or Sampling(temperature=0.7, top_p=0.9)
    observer = guidance.writer if isinstance(guidance.writer, HarmObserver) else None

    def draw(steered: SVGTBridge | NoGuidance) -> Generation:
        (reply,) = generate(
            backbone,
            [prompt],
            steered,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            generator=torch.Generator().manual_seed(seed),
            trace=TraceRequest(observer=observer),
        )
        return reply

    guided, unguided = draw(guidance), draw(NoGuidance())
    pairs = ReplyPairs((prompt,), (guided.text,), (unguided.text,), ("",), ("",), (True,))
    scene = set_scene(backbone, guidance, pairs)
    opened, same = bool(scene.write.open[0]), guided.text == unguided.text
    read = control = None
    if opened:
        n_steps = max(len(guided.ids), 1)
        read = attention_mass(scene, n_steps)
        noise = random_bridges(scene, np.random.default_rng([seed, *b"control"]))
        control = attention_mass(scene, n_steps, noise)
    steps = backbone.encode_responses([guided.text]).ids[0, : len(guided.ids)].tolist()
    return PromptAnchoring(
        open=opened,
        trigger_score=float(scene.write.score[0]),
        guided=_reply(backbone, guided),
        unguided=_reply(backbone, unguided),
        layers=scene.slot_layers,
        steps=tuple(backbone.token_strings(steps)),
        attention=read,
        control=control,
        margins=_margins(scene, gates, seed) if opened and not same else None,
        note=CLOSED if not opened else SAME_REPLY if same else "",
    )


def _reply(backbone: Backbone, reply: Generation) -> Reply:
    tokens = tuple(backbone.token_strings(reply.ids))
    return Reply(reply.text, tokens, reply.trace.harm_score)


def _margins(scene: Scene, gates: Sequence[float], seed: int) -> PromptMargins:
    made = interventions(scene, None, seed=seed)
    by_intervention = {
        name: float(scene.margins(intervention.edit)[0])
        for name, intervention in made.items()
        # The mean over one prompt is its own bridge.
        if bool(intervention.measured[0]) and name != "mean"
    }
    by_gate = [_at_gate(scene, gate) for gate in gates]
    heads, stream = _necessity(scene)
    return PromptMargins(by_intervention, tuple(gates), tuple(by_gate), heads, stream)


def _at_gate(scene: Scene, gate: float) -> float:
    write = write_bridges(scene.backbone, scene.pairs.prompts, scene.guidance.writer, gate)
    return float(scene.margins(replaced(write.bridge))[0])


def _necessity(scene: Scene) -> tuple[Float[Tensor, "layer head"], float]:
    """Share of the effect lost without each head, and without the stream."""
    margins = path_margins(scene)
    whole = float(margins.whole.margin[0])
    effect = whole - float(margins.none.margin[0])
    heads = torch.full((len(scene.slot_layers), scene.backbone.n_heads), math.nan)
    stream = math.nan
    for readers in all_readers(scene):
        if effect == 0 or readers.site not in ("head", "stream"):
            continue
        lost = (whole - float(margins.without(readers)[0])) / effect
        if readers.layer is None or readers.head is None:
            stream = lost
        else:
            heads[readers.layer - scene.first_layer, readers.head] = lost
    return heads, stream
