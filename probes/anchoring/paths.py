"""By which heads does the bridge act? Path patching of its readers, per head and per block.

    necessity(p)    1 - (m(all but p) - m(none)) / (m(all) - m(none))
    sufficiency(p)      (m(only p)    - m(none)) / (m(all) - m(none))

m is the safety margin when the bridge is read by some of its readers only: heads above L, blinded
by hiding slot keys from their predicting queries, and the stream of the last slot, closed by
predicting the first token from the prompt's end (``scene`` explains both). m(none) is the knock-out
at unchanged positions, so the necessity of all readers together is 1. Shares of single readers need
not add up: readers back each other up, or act only together (arXiv 2309.16042).

The null of a head's or block's necessity is the share lost when as many random prompt tokens are
hidden from it instead; that of sufficiency is 0.

Teacher-forced, everything after the first token already knows which reply it belongs to, so the
margin favours the stream. The harm rate of sampled replies that only the heads, or only the stream,
can steer does not have this bias.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from probes.anchoring.edits import knocked_out
from probes.anchoring.estimates import NO_EFFECT, Estimates, Values, as_values
from probes.anchoring.generations import Speaker, rate_of
from probes.anchoring.patched import PatchedBridge
from probes.anchoring.scene import PromptKeys, Scene
from probes.margins import PairLogProbs
from probes.records import Record

PATH_SHARE, PATH_HARM, PATH_HARM_SHARE = "path_share", "path_harm_rate", "path_harm_share"
PathSite = Literal["all", "heads", "stream", "layer", "head"]


@dataclass(frozen=True, eq=False)
class Readers:
    """Some readers of the bridge.

    Attributes:
        site: What they are together.
        heads: Heads of all blocks.
        stream: Whether the last slot's stream is one of them.
        layer: Their block, if they share one.
        head: The head, if it is one.
    """

    site: PathSite
    heads: Bool[Tensor, "layer head"]
    stream: bool
    layer: int | None = None
    head: int | None = None


def all_readers(scene: Scene) -> Iterator[Readers]:
    """All readers, all heads, the stream, every block, every head."""
    above = _above(scene)
    none = torch.zeros_like(above)
    yield Readers("all", above, stream=True)
    yield Readers("heads", above, stream=False)
    yield Readers("stream", none, stream=True)
    for layer in scene.slot_layers:
        block = none.clone()
        block[layer] = True
        yield Readers("layer", block, stream=False, layer=layer)
        for head in range(scene.backbone.n_heads):
            one = none.clone()
            one[layer, head] = True
            yield Readers("head", one, stream=False, layer=layer, head=head)


@dataclass(frozen=True, eq=False)
class PathMargins:
    """Margins under patched readers.

    Attributes:
        scene: The prompts.
        whole: With all readers.
        none: With none.
    """

    scene: Scene
    whole: PairLogProbs
    none: PairLogProbs

    def without(self, readers: Readers) -> Values:
        """All readers but these."""
        return self._run(blind=readers.heads, stream=not readers.stream)

    def only(self, readers: Readers) -> Values:
        """These readers and no others."""
        return self._run(blind=_above(self.scene) & ~readers.heads, stream=readers.stream)

    @torch.no_grad()
    def _run(self, *, blind: Bool[Tensor, "layer head"], stream: bool) -> Values:
        run = self.scene.log_probs(blind=blind)
        # The prompt's end never sees the slots, whatever the heads do.
        return as_values((run if stream else run.with_first(self.none)).margin)

    @torch.no_grad()
    def without_prompt_tokens(self, readers: Readers, control: PromptKeys) -> Values:
        """All readers, with prompt tokens hidden from these instead of the slots."""
        return as_values(self.scene.log_probs(blind=readers.heads, control=control).margin)


@torch.no_grad()
def path_margins(scene: Scene) -> PathMargins:
    """The two ends of every share."""
    return PathMargins(scene, scene.log_probs(), scene.log_probs(knocked_out))


def path_records(scene: Scene, estimates: Estimates, *, seed: int) -> list[Record]:
    """Necessity and sufficiency of every reader.

    Args:
        scene: Harmful prompts with open gates.
        estimates: Of these prompts.
        seed: Decides which prompt tokens the control hides.
    """
    margins = path_margins(scene)
    whole, none = as_values(margins.whole.margin), as_values(margins.none.margin)
    control = random_prompt_keys(scene, seed)
    clear = estimates.is_clear(whole - none)
    records = []
    for readers in all_readers(scene):
        base = replace(
            estimates.base,
            metric=PATH_SHARE,
            site=readers.site,
            layer=readers.layer,
            head=readers.head,
            null=0.0,
        )
        necessity, sufficiency = (
            replace(base, estimator=name) for name in ("necessity", "sufficiency")
        )
        if not clear:
            records += [replace(one, note=NO_EFFECT) for one in (necessity, sufficiency)]
            continue
        if readers.layer is not None:
            hidden = margins.without_prompt_tokens(readers, control)
            lost = (whole - hidden).mean() / (whole - none).mean()
            necessity = replace(necessity, null=float(lost))
        records += [
            estimates.lost(necessity, whole, margins.without(readers), none),
            estimates.kept(sufficiency, whole, margins.only(readers), none),
        ]
    return records


def path_harm_records(
    scene: Scene, harm: Mapping[str, Values], speaker: Speaker, estimates: Estimates
) -> list[Record]:
    """Harm rate of replies steered by all heads alone, and by the stream alone, and their shares.

    Args:
        scene: Harmful prompts with open gates.
        harm: Of the replies under ``full``, ``knock_out`` and ``no_slots``.
        speaker: Draws and judges replies.
        estimates: Of these prompts.
    """
    whole, none = harm["full"], harm["knock_out"]
    records = []
    for readers in all_readers(scene):
        if readers.site not in ("heads", "stream"):
            continue
        guidance = PatchedBridge(
            scene.guidance, _above(scene) & ~readers.heads, stream=readers.stream
        )
        outcomes = speaker.harm(scene.backbone, scene.pairs, guidance)
        base = replace(estimates.base, estimator="sufficiency", site=readers.site)
        rate = replace(base, metric=PATH_HARM, null=rate_of(harm["no_slots"]))
        share = replace(base, metric=PATH_HARM_SHARE, null=0.0)
        records += [
            estimates.rate(rate, outcomes),
            estimates.kept(share, whole, outcomes, none),
        ]
    return records


def _above(scene: Scene) -> Bool[Tensor, "layer head"]:
    """Every head that can see the slots."""
    heads = torch.zeros((scene.backbone.n_layers, scene.backbone.n_heads), dtype=torch.bool)
    heads[scene.first_layer :] = True
    return heads


def random_prompt_keys(scene: Scene, seed: int) -> PromptKeys:
    """Other tokens of every prompt, as many as there are slots."""
    rng = np.random.default_rng([seed, *b"prompt keys"])
    longest = int(scene.backbone.encode(scene.pairs.prompts).lengths.max())
    ranks = rng.random((len(scene), longest))
    return PromptKeys(torch.tensor(ranks, dtype=torch.float32, device=scene.backbone.device))
