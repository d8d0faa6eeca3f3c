"""Every site that the instability question compares, lined up out of one store.

The residual stream is compared with what a value module makes of the same prompts: its value state,
its correction and its bridge. Beside the trained module reads an *untrained* one of the same
configuration, freshly initialised: what any such network would show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from probes.collection.sites import TOKEN_SITE, reads_response
from probes.collection.store import StateStore
from probes.contrasts import CONTRASTS, MIN_PER_CLASS, Contrast, ContrastSet, contrast_set
from probes.directions import ESTIMATORS
from workbench.arguments import Seed, typed_arguments
from workbench.data.example import Example
from workbench.errors import DataError
from workbench.guidance.svgt_bridge import SVGTBridge
from workbench.svgt.value_module import ValueModule

UNTRAINED = "untrained"
STEPS = (0, 1, 2, 4, 8)
"""Tokens of the reply at which directions are compared; later ones are rarely reached."""

_NOT_DIRECTIONS = ("score", "open")
_ADVICE = {
    "prompt": 'give each harmful prompt and its harmless counterpart the same "pair"',
    "response": "give each harmful prompt a harmful and a safe reply",
}
_HARM = {"prompt": "prompt_harm", "response": "response_harm"}


@typed_arguments
def survey_modules(bridge: SVGTBridge | None, *, seed: Seed) -> dict[str, ValueModule]:
    """The module behind a bridge under its name, and an untrained one of the same configuration.

    Args:
        bridge: A guidance; None or one without a value module gives none.
        seed: Of the untrained module's weights.
    """
    if bridge is None or not isinstance(bridge.writer, ValueModule):
        return {}
    trained = bridge.writer
    device = next(trained.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = ValueModule(trained.config).to(device).freeze()
    return {trained.config.name: trained, UNTRAINED: untrained}


@typed_arguments
def survey_sites(contrasts: Sequence[Contrast], *, steps: bool) -> tuple[str, ...]:
    """The residual sites to collect for some contrasts.

    Args:
        contrasts: What will be compared.
        steps: Whether single tokens of the reply will be, too.
    """
    sites = ["prompt_last"] if "prompt" in contrasts else []
    if "response" in contrasts:
        sites += ["response_mean", *([TOKEN_SITE] if steps else [])]
    return tuple(sites)


@typed_arguments
def possible_contrasts(examples: Sequence[Example]) -> tuple[Contrast, ...]:
    """The contrasts that examples carry: the second needs a reply to every one of them."""
    replied = all(example.response is not None for example in examples)
    judged = any(example.labels.get("response_harm") is not None for example in examples)
    return CONTRASTS if replied and judged else ("prompt",)


@typed_arguments
def require_classes(examples: Sequence[Example], contrasts: Sequence[Contrast]) -> None:
    """Check that every context has enough examples of both classes, before anything is run.

    Raises:
        DataError: It has not; context, class and numbers are named.
    """
    for contrast in contrasts:
        label = _HARM[contrast]
        if all(example.labels.get(label) is None for example in examples):
            raise DataError(
                f"none of the {len(examples)} examples has the label '{label}', which the contrast "
                f"'{contrast}' compares: add \"{label}\": true or false to every example"
            )
        for context in dict.fromkeys(example.context for example in examples):
            harm = {
                (example.prompt, example.response if contrast == "response" else None): bool(
                    example.labels[label]
                )
                for example in examples
                if example.context == context
                and example.labels.get(label) is not None
                and (contrast == "prompt" or example.labels.get("prompt_harm"))
            }
            for name, count in (
                ("harmful", sum(harm.values())), ("harmless", len(harm) - sum(harm.values())),
            ):  # fmt: skip
                if count < MIN_PER_CLASS:
                    raise DataError(
                        f"the context '{context}' has {count} {name} examples with the label "
                        f"'{label}', {MIN_PER_CLASS} are needed for the contrast '{contrast}': "
                        "give more, or leave this context out"
                    )


@dataclass(frozen=True)
class MissingPairs:
    """Estimators that will not be measured for want of matched pairs.

    Attributes:
        contrast: Of which contrast.
        estimators: Their names.
        counts: Pairs of each context that has too few.
        least: Pairs that are needed.
        everywhere: Whether no context has enough.
    """

    contrast: Contrast
    estimators: tuple[str, ...]
    counts: Mapping[str, int]
    least: int
    everywhere: bool

    def __str__(self) -> str:
        few = ", ".join(f"{context} ({count})" for context, count in self.counts.items())
        return (
            f"{' and '.join(self.estimators)} cannot be measured "
            f"{'in any context' if self.everywhere else f'in {few}'} for the contrast "
            f"'{self.contrast}': fewer than {self.least} matched pairs; {_ADVICE[self.contrast]}"
        )


@typed_arguments
def lacking_pairs(
    examples: Sequence[Example],
    contrasts: Sequence[Contrast],
    estimators: Sequence[str],
    *,
    pooled: bool = False,
) -> tuple[MissingPairs, ...]:
    """Which estimators will not be measured for want of matched pairs, by contrast.

    Args:
        examples: What will be compared.
        contrasts: How.
        estimators: Names of the estimators.
        pooled: One direction is fitted in all contexts together, without halves; else two pairs
            are needed in each half of a context's examples.
    """
    paired = tuple(name for name in estimators if ESTIMATORS[name].needs_pairs)
    least = 2 if pooled else 4
    found = []
    for contrast in contrasts if paired else ():
        counts = _count_pairs(examples, contrast)
        enough = sum(counts.values()) >= least if pooled else min(counts.values()) >= least
        if not enough:
            few = counts if pooled else {k: n for k, n in counts.items() if n < least}
            found.append(MissingPairs(contrast, paired, few, least, len(few) == len(counts)))
    return tuple(found)


def _count_pairs(examples: Sequence[Example], contrast: Contrast) -> dict[str, int]:
    """Matched pairs of every context, as :func:`~probes.contrasts.contrast_set` makes them."""
    classes: dict[tuple[str, object], tuple[set[object], set[object]]] = {}
    for example in examples:
        harm = example.labels.get(_HARM[contrast])
        replied = contrast == "response"
        unit = example.prompt if replied else example.labels.get("pair")
        if unit and harm is not None and (not replied or example.labels.get("prompt_harm")):
            members = classes.setdefault((example.context, unit), (set(), set()))
            members[bool(harm)].add(example.response if replied else example.prompt)
    counts = dict.fromkeys((example.context for example in examples), 0)
    for (context, _), (safe, harmful) in classes.items():
        counts[context] += min(len(safe), len(harmful))
    return counts


@typed_arguments
def survey_sets(
    store: StateStore, contrasts: Sequence[Contrast], *, steps: Sequence[int] = STEPS
) -> list[ContrastSet]:
    """Line up every site of a store for every contrast that it can carry.

    Args:
        store: Collected with :func:`survey_sites` and :func:`survey_modules`.
        contrasts: Which to compare.
        steps: Tokens of the reply; those that too few replies reach are left out.

    Raises:
        DataError: See :func:`~probes.contrasts.contrast_set`.
    """
    sets = [
        contrast_set(store, site, contrast)
        for contrast in contrasts
        for site in store.sites
        if reads_response(site) == (contrast == "response")
        and site != TOKEN_SITE
        and site.partition(":")[0] not in _NOT_DIRECTIONS
    ]
    if TOKEN_SITE in store.sites and "response" in contrasts:
        sets += _steps(store, steps)
    return sets


def _steps(store: StateStore, steps: Sequence[int]) -> list[ContrastSet]:
    """Single tokens, as far as every context has enough replies that reach them."""
    reached: list[ContrastSet] = []
    for step in steps:
        try:
            reached.append(contrast_set(store, TOKEN_SITE, "response", step=step))
        except DataError:  # later steps are reached by fewer replies still
            break
    return reached
