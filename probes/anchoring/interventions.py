"""Which bridge a prompt gets instead of its own, one row of the table of ablations each.

================ ================================================================ ==============
intervention     instead of the prompt's own bridge                               on manifold
================ ================================================================ ==============
``full``         itself                                                           yes
``no_slots``     nothing, the plain model: the reference of every effect          yes
``knock_out``    slots that no response query sees, at their positions            yes
``resting``      the bridge at gate 0: what the writer adds is gone               yes
``resample``     the bridge of a harmful prompt of another group                  yes
``context``      the bridge of the same intent in another context                 yes
``harmless``     the bridge of a harmless prompt (the matched one where there is) yes
``mean``         the mean bridge of the harmful prompts                           no
``shuffled``     its tokens in another order                                      no
``random``       noise with the norm of each token                                no
``untrained``    the bridge of a freshly initialised bridge network               no
================ ================================================================ ==============

Where an intervention needs a donor that a prompt does not have, that prompt is not measured.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.anchoring.edits import (
    BridgeEdit,
    knocked_out,
    randomised,
    replaced,
    shuffled,
    taken_from,
    unchanged,
    write_bridges,
)
from probes.anchoring.scene import Scene
from workbench.svgt.latent_bridge import build_bridge
from workbench.svgt.value_module import ValueModule
from workbench.svgt.value_space import last_valid

NO_DONOR = -1

INTERVENTIONS: Mapping[str, str] = MappingProxyType(
    {
        "full": "the prompt's own bridge",
        "no_slots": "no slots: the plain model",
        "knock_out": "slots hidden, positions kept",
        "resting": "bridge at rest (gate 0)",
        "resample": "bridge of another harmful prompt",
        "context": "bridge of the same intent, other context",
        "harmless": "bridge of a harmless prompt",
        "mean": "mean bridge of harmful prompts",
        "shuffled": "bridge tokens shuffled",
        "random": "noise of equal norm",
        "untrained": "untrained bridge network",
    }
)
"""Name to what the response sees, in the order of reports."""

OFF_MANIFOLD = frozenset({"mean", "shuffled", "random", "untrained"})
OFF_MANIFOLD_NOTE = "off the manifold of written bridges: prefer resample"


@dataclass(frozen=True, eq=False)
class Intervention:
    """An edit of all bridges of a scene, ready to be made.

    Attributes:
        name: One of ``INTERVENTIONS``.
        edit: What is done; None takes the slots away.
        measured: Prompts for which it can be made.
        note: What to mind, or why no prompt could be measured.
    """

    name: str
    edit: BridgeEdit | None
    measured: Bool[Tensor, " batch"]
    note: str = ""


Build = Callable[[Scene, Scene | None, np.random.Generator], Intervention]


def interventions(scene: Scene, harmless: Scene | None, *, seed: int) -> dict[str, Intervention]:
    """All interventions on the bridges of harmful prompts, by name.

    Args:
        scene: Harmful prompts with open gates.
        harmless: Harmless prompts, as donors.
        seed: Decides donors, orders and noise.
    """
    return {
        name: build(scene, harmless, np.random.default_rng([seed, *name.encode()]))
        for name, build in _BUILD.items()
    }


def random_bridges(scene: Scene, rng: np.random.Generator) -> BridgeEdit:
    """Noise of every bridge token's own norm."""
    noise = rng.standard_normal(scene.write.bridge.shape)
    return randomised(torch.tensor(noise).to(scene.write.bridge))


def donors(
    scene: Scene,
    source: Scene,
    rng: np.random.Generator,
    suits: Callable[[int, int], bool],
) -> Int[Tensor, " batch"]:
    """For every prompt a random prompt of the source that suits it, or ``NO_DONOR``."""
    order = rng.permuted(np.tile(np.arange(len(source)), (len(scene), 1)), axis=1)
    found = [
        next((int(other) for other in order[row] if suits(row, int(other))), NO_DONOR)
        for row in range(len(scene))
    ]
    return torch.tensor(found, dtype=torch.long)


def matched(scene: Scene, source: Scene, rng: np.random.Generator) -> Int[Tensor, " batch"]:
    """For every prompt one of the source with its group and context; any one where none is."""
    own, other = scene.pairs, source.pairs

    def suits(row: int, donor: int) -> bool:
        return own.groups[row] == other.groups[donor] and own.contexts[row] == other.contexts[donor]

    found = donors(scene, source, rng, suits)
    anyone = torch.tensor(rng.integers(len(source), size=len(scene)))
    return torch.where(found != NO_DONOR, found, anyone)


def _all(scene: Scene) -> Bool[Tensor, " batch"]:
    return torch.ones(len(scene), dtype=torch.bool)


def _none(name: str, scene: Scene, reason: str) -> Intervention:
    return Intervention(name, unchanged, ~_all(scene), f"not measured: {reason}")


def _from_own_set(name: str, scene: Scene, found: Int[Tensor, " batch"]) -> Intervention:
    has_donor = found != NO_DONOR
    own = torch.arange(len(scene))
    return Intervention(name, taken_from(torch.where(has_donor, found, own)), has_donor)


def _full(scene: Scene, _: Scene | None, __: np.random.Generator) -> Intervention:
    return Intervention("full", unchanged, _all(scene))


def _no_slots(scene: Scene, _: Scene | None, __: np.random.Generator) -> Intervention:
    return Intervention("no_slots", None, _all(scene))


def _knock_out(scene: Scene, _: Scene | None, __: np.random.Generator) -> Intervention:
    return Intervention("knock_out", knocked_out, _all(scene))


def _resting(scene: Scene, _: Scene | None, __: np.random.Generator) -> Intervention:
    return Intervention("resting", replaced(resting_bridges(scene)), _all(scene))


def resting_bridges(scene: Scene) -> Float[Tensor, "batch bridge d_model"]:
    """What the writer writes at gate 0."""
    return write_bridges(
        scene.backbone, scene.pairs.prompts, scene.guidance.writer, gate_scale=0.0
    ).bridge


def _resample(scene: Scene, _: Scene | None, rng: np.random.Generator) -> Intervention:
    groups = scene.pairs.groups
    found = donors(scene, scene, rng, lambda row, other: groups[row] != groups[other])
    return _from_own_set("resample", scene, found)


def _context(scene: Scene, _: Scene | None, rng: np.random.Generator) -> Intervention:
    groups, contexts = scene.pairs.groups, scene.pairs.contexts

    def suits(row: int, other: int) -> bool:
        return groups[row] == groups[other] and contexts[row] != contexts[other]

    return _from_own_set("context", scene, donors(scene, scene, rng, suits))


def _harmless(scene: Scene, harmless: Scene | None, rng: np.random.Generator) -> Intervention:
    if harmless is None:
        return _none("harmless", scene, "no harmless prompt with two replies was given")
    bridges = harmless.write.bridge[matched(scene, harmless, rng)]
    return Intervention("harmless", replaced(bridges), _all(scene))


def _mean(scene: Scene, _: Scene | None, __: np.random.Generator) -> Intervention:
    mean = scene.write.bridge.mean(dim=0, keepdim=True).expand_as(scene.write.bridge)
    return Intervention("mean", replaced(mean), _all(scene), OFF_MANIFOLD_NOTE)


def _shuffled(scene: Scene, _: Scene | None, rng: np.random.Generator) -> Intervention:
    n_rows, n_slots = scene.write.bridge.shape[:2]
    if n_slots < 2:
        return _none("shuffled", scene, "one bridge token has no order")
    # A cyclic shift by 1 to K-1 of a random relabelling leaves no token in its place.
    order = np.empty((n_rows, n_slots), dtype=np.int64)
    cycles = rng.permuted(np.tile(np.arange(n_slots), (n_rows, 1)), axis=1)
    shifts = rng.integers(1, n_slots, size=n_rows)
    moved = cycles[np.arange(n_rows)[:, None], (np.arange(n_slots) + shifts[:, None]) % n_slots]
    np.put_along_axis(order, cycles, moved, axis=1)
    return Intervention("shuffled", shuffled(torch.tensor(order)), _all(scene), OFF_MANIFOLD_NOTE)


def _random(scene: Scene, _: Scene | None, rng: np.random.Generator) -> Intervention:
    return Intervention("random", random_bridges(scene, rng), _all(scene), OFF_MANIFOLD_NOTE)


def _untrained(scene: Scene, _: Scene | None, rng: np.random.Generator) -> Intervention:
    writer = scene.guidance.writer
    if not isinstance(writer, ValueModule):
        return _none("untrained", scene, "the writer is no value module whose bridge can be new")
    bridges = untrained_bridges(scene, writer, int(rng.integers(2**31)))
    return Intervention("untrained", replaced(bridges), _all(scene), OFF_MANIFOLD_NOTE)


@torch.no_grad()
def untrained_bridges(
    scene: Scene, module: ValueModule, seed: int
) -> Float[Tensor, "batch bridge d_model"]:
    """Bridges of a network as it starts stage 3, fed the same states and corrections."""
    layer = module.config.layer
    with torch.random.fork_rng(devices=[]):  # a new network draws from torch's global generator
        torch.manual_seed(seed)
        fresh = build_bridge(module.config).to(scene.backbone.device).eval()
    batch = scene.backbone.encode(scene.pairs.prompts)
    states = scene.backbone.read_states(batch, [layer])[layer]
    trigger_state = last_valid(states, batch.mask).float()
    fresh.initialise(trigger_state)
    bridges: Tensor = fresh(trigger_state, scene.write.delta_z, scene.guidance.gate_scale)
    return bridges


_BUILD: Mapping[str, Build] = {
    "full": _full,
    "no_slots": _no_slots,
    "knock_out": _knock_out,
    "resting": _resting,
    "resample": _resample,
    "context": _context,
    "harmless": _harmless,
    "mean": _mean,
    "shuffled": _shuffled,
    "random": _random,
    "untrained": _untrained,
}
