"""Does the bridge hold a reply where it is safe? The harm score while the reply grows.

s_t is the value module's score of the reply up to token t, guided and unguided, both drawn with the
same random streams; above 0 means harmful. A mean at token t is over the replies that still run
there (refusals end sooner, so late tokens speak of fewer prompts: see n); the record without a
token is over the ends of all replies. Besides, the projection of the reply's states on any given
direction of the residual stream, ``<h_t, v> / ||v||``; there a bridge that follows the response
acts as first written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.anchoring.edits import BridgeEdit, unchanged
from probes.anchoring.estimates import Estimates, Values, as_values
from probes.anchoring.generations import Speaker
from probes.anchoring.scene import Scene
from probes.margins import reply_batches
from probes.records import Record
from workbench.arguments import require_field_types
from workbench.backbone.protocol import pad_rows
from workbench.guidance.decoding import Generation, HarmObserver, TraceRequest
from workbench.guidance.none import NoGuidance

TRAJECTORY = "trajectory"
NO_OBSERVER = "not measured: the writer cannot score responses"


@dataclass(frozen=True, eq=False)
class ResidualDirection:
    """A direction of the residual stream to watch.

    Attributes:
        vector: Any length but 0.
        layer: The block after which states are projected; -1: the embeddings.
        name: For records.
    """

    vector: Float[Tensor, " d_model"]
    layer: int
    name: str

    def __post_init__(self) -> None:
        require_field_types(self)


@dataclass(frozen=True, eq=False)
class Trajectories:
    """A quantity along the replies of all prompts, NaN past their ends.

    Attributes:
        guided: With the bridge.
        unguided: Of the plain model.
    """

    guided: Float[Tensor, "batch token"]
    unguided: Float[Tensor, "batch token"]


@dataclass(frozen=True, eq=False)
class Replies:
    """Replies of all prompts with and without the bridge.

    Attributes:
        guided: With the bridge.
        unguided: Of the plain model.
    """

    guided: Sequence[Generation]
    unguided: Sequence[Generation]


def draw_replies(scene: Scene, speaker: Speaker, observer: HarmObserver | None) -> Replies:
    """Draw both replies to every prompt, scored while they grow if there is an observer."""
    trace = TraceRequest(observer=observer)
    guided, unguided = (
        speaker.replies(scene.backbone, scene.pairs, guidance, trace)
        for guidance in (scene.guidance, NoGuidance())
    )
    return Replies(guided, unguided)


def harm_scores(replies: Replies) -> Trajectories:
    """s_t of replies that were drawn with an observer."""
    return Trajectories(_scores(replies.guided), _scores(replies.unguided))


def _scores(replies: Sequence[Generation]) -> Float[Tensor, "batch token"]:
    rows = [reply.trace.harm_score for reply in replies]
    width = max(len(row) for row in rows if row is not None)
    scores = torch.full((len(rows), width), torch.nan)
    for number, row in enumerate(rows):
        assert row is not None, "the replies were drawn without an observer"
        scores[number, : len(row)] = row
    return scores


def projections(scene: Scene, replies: Replies, direction: ResidualDirection) -> Trajectories:
    """Projection of the states at every token of both replies."""
    return Trajectories(
        _projected(scene, replies.guided, direction, unchanged),
        _projected(scene, replies.unguided, direction, None),
    )


@torch.no_grad()
def _projected(
    scene: Scene,
    replies: Sequence[Generation],
    direction: ResidualDirection,
    edit: BridgeEdit | None,
) -> Float[Tensor, "batch token"]:
    backbone, layer = scene.backbone, direction.layer
    prompt = backbone.encode(scene.pairs.prompts)
    response = pad_rows(
        [reply.ids for reply in replies],
        pad_id=backbone.pad_id,
        side="right",
        device=backbone.device,
    )
    unit = direction.vector.to(backbone.device).float() / direction.vector.float().norm()
    found = torch.full(response.ids.shape, torch.nan)
    for _, batch in reply_batches(prompt, response, scene.batch_size):
        with backbone.capture([layer]) as residual:
            scene.run(batch, edit)
        n_tokens = batch.response.ids.shape[1]
        along = residual[layer][:, -n_tokens:].float() @ unit
        along = along.masked_fill(~batch.response.mask, torch.nan)
        found[batch.rows.cpu(), :n_tokens] = along.cpu()
    return found


def trajectory_records(site: str, found: Trajectories, estimates: Estimates) -> list[Record]:
    """Mean at every token (x) and at the ends of the replies (x empty), guided and unguided.

    The null of guided records is the unguided mean at the same place.
    """
    base = replace(estimates.base, metric=TRAJECTORY, site=site)
    unguided = _along(replace(base, estimator="unguided"), found.unguided, estimates)
    null = {record.x: record.estimate for record in unguided[1:]}
    guided = _along(replace(base, estimator="guided"), found.guided, estimates)
    at_end = replace(guided[0], null=unguided[0].estimate)
    return [
        at_end,
        *(replace(record, null=null.get(record.x, float("nan"))) for record in guided[1:]),
        *unguided,
    ]


def _along(
    record: Record, values: Float[Tensor, "batch token"], estimates: Estimates
) -> list[Record]:
    """The record at the ends, then one for every token."""
    numbers = as_values(values)
    records = [estimates.mean(record, _last(numbers))]
    for token in range(numbers.shape[1]):
        records.append(estimates.mean(replace(record, x=float(token)), numbers[:, token]))
    return records


def _last(values: Values) -> Values:
    """Each row's last number that is not NaN."""
    ends = np.isfinite(values).sum(axis=1) - 1
    last: Values = values[np.arange(len(values)), ends]
    return last
