"""Two classes of states, lined up over contexts: the one input of every direction analysis.

A *contrast* says which two classes a value direction tells apart:

============  ==================================================  =============================
``prompt``    harmful against harmless requests                   every prompt counts once
``response``  harmful against safe replies to harmful requests    the prompt's harm is constant
============  ==================================================  =============================

Sites of the prompt carry the first contrast, sites of the response the second: a state of the
prompt is the same whatever the reply, and a reply to a harmful prompt differs from one to a
harmless prompt in more than harm.

Where an example has a matched counterpart (same context, other class, as alike as possible
otherwise), ``pair`` points to it; estimators that need paired differences use it. Prompts match
that share the source's ``pair`` label, replies that answer the same prompt.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.collection.sites import TOKEN_SITE, has_layers, reads_response
from probes.collection.store import StateStore
from workbench.arguments import require_field_types, typed_arguments
from workbench.errors import DataError, NonFiniteError

Contrast = Literal["prompt", "response"]
CONTRASTS: tuple[Contrast, ...] = get_args(Contrast)
NO_PAIR = -1
MIN_PER_CLASS = 8
"""Fewest examples of a class in a context: a half of them still has four."""


@dataclass(frozen=True, eq=False)
class ContrastSet:
    """States of two classes of examples at one site.

    Attributes:
        states: The states; the layer axis has length 1 where a site has no layers.
        layers: Which layers they are, -1 for the embeddings; ``(None,)`` for sites without.
        positive: True where harmful.
        context: Context frame of every example.
        group: What an example must not be separated from: resample whole groups.
        pair: Index of each example's counterpart (same context, other class), -1 for none.
        site: Where the states were read, for example ``prompt_last`` or ``z:svgt``.
        contrast: Which two classes.
        lengths: Tokens of what was read, for the length-only baseline.

    Raises:
        ConfigError: A part of another type.
        DataError: Parts of different sizes, or a pair that is not mutual, of one class, or of two
            contexts.
        NonFiniteError: A state is NaN or infinite; the example and the layer are named.
    """

    states: Float[Tensor, "layer n width"]
    layers: tuple[int | None, ...]
    positive: Bool[Tensor, " n"]
    context: tuple[str, ...]
    group: tuple[str, ...]
    pair: Int[Tensor, " n"]
    site: str
    contrast: Contrast
    lengths: Int[Tensor, " n"]

    def __post_init__(self) -> None:
        require_field_types(self)
        _check_sizes(self)
        _check_finite(self)
        _check_pairs(self)

    def __len__(self) -> int:
        return len(self.positive)

    @property
    def contexts(self) -> tuple[str, ...]:
        """The contexts there are, in order of first appearance."""
        return tuple(dict.fromkeys(self.context))

    def in_context(self, name: str) -> "ContrastSet":
        """The examples of one context.

        Raises:
            DataError: No example stands in it; the contexts there are are named.
        """
        if name not in self.context:
            raise DataError(
                f"no example stands in the context '{name}'; there are {', '.join(self.contexts)}"
            )
        return self.rows(torch.tensor([i for i, where in enumerate(self.context) if where == name]))

    def rows(self, index: Int[Tensor, " row"]) -> "ContrastSet":
        """Some examples, in the order given, each at most once; pairs with one half left out end.

        Raises:
            DataError: An example is named twice: count repetitions with weights instead.
        """
        if len(set(index.tolist())) != len(index):
            raise DataError("an example is picked twice: give it a weight of 2 instead")
        place = torch.full((len(self) + 1,), NO_PAIR, dtype=torch.long)
        place[index] = torch.arange(len(index))
        picked = index.tolist()
        return ContrastSet(
            states=self.states[:, index],
            layers=self.layers,
            positive=self.positive[index],
            context=tuple(self.context[i] for i in picked),
            group=tuple(self.group[i] for i in picked),
            pair=place[self.pair[index]],  # -1 reads the last place, which stays -1
            site=self.site,
            contrast=self.contrast,
            lengths=self.lengths[index],
        )


@typed_arguments
def contrast_set(
    store: StateStore,
    site: str,
    contrast: Contrast,
    *,
    step: int | None = None,
    allow_sparse: bool = False,
) -> ContrastSet:
    """Line up the two classes of a contrast at one site, in every context of a store.

    The ``prompt`` contrast counts every prompt of a context once, however many replies it has; the
    ``response`` contrast takes the replies to harmful prompts. Examples without the label it needs
    are left out.

    Args:
        store: Collected states.
        site: Where; ``response_tokens`` needs a ``step``.
        contrast: Which two classes.
        step: Which token of the response, from 0; shorter responses are left out.
        allow_sparse: Let a context have fewer than ``MIN_PER_CLASS`` examples of a class, or none:
            what cannot be estimated from them is then *not measured*.

    Raises:
        ConfigError: An unknown contrast, or an argument of another type.
        DataError: A contrast that the site cannot carry, a step that is missing or out of place,
            no example with the labels, or a context with too few of one class (it is named).
        RunError: The site was not collected.
        NonFiniteError: A state is NaN or infinite.
    """
    _check_question(site, contrast, step)
    rows = _prompt_rows(store.examples) if contrast == "prompt" else _reply_rows(store.examples)
    if step is not None:
        rows = rows[rows["n_response"] > step]
    if rows.empty:
        raise DataError(
            f"no example in {store.path} carries the contrast '{contrast}': label prompts with "
            "prompt_harm, and replies to harmful prompts with response_harm"
            + ("" if step is None else f"; or no response reaches step {step}")
        )
    if not allow_sparse:
        _require_both_classes(rows)
    index = torch.tensor(rows.index.to_numpy())
    return ContrastSet(
        states=store.all_layers(site)[:, index] if step is None else store.at_step(step, index),
        layers=store.layers if has_layers(site) else (None,),
        positive=torch.tensor(rows["positive"].to_numpy(dtype=bool)),
        context=tuple(rows["context"]),
        group=tuple(rows["group"]),
        pair=_matched(*(rows[name].tolist() for name in ("unit", "context", "positive"))),
        site=site if step is None else f"{site}@{step}",
        contrast=contrast,
        lengths=torch.tensor(
            rows["n_response" if reads_response(site) else "n_prompt"].to_numpy(), dtype=torch.long
        ),
    )


def _check_question(site: str, contrast: Contrast, step: int | None) -> None:
    if reads_response(site) != (contrast == "response"):
        of = "response" if reads_response(site) else "prompt"
        raise DataError(
            f"'{site}' is a state of the {of} and cannot carry the contrast '{contrast}': "
            f"use the contrast '{of}'"
        )
    if (site == TOKEN_SITE) != (step is not None):
        raise DataError(
            f"'{site}' needs a step: say which token of the response"
            if step is None
            else f"a step is a token of the response; the site '{site}' has none"
        )
    if step is not None and step < 0:
        raise DataError(f"step = {step}: steps count from 0")


def _prompt_rows(examples: pd.DataFrame) -> pd.DataFrame:
    """Every labelled prompt of a context once; prompts with one ``pair`` label are one unit.

    Of the replies to a prompt, one that carries the label is enough.
    """
    rows = examples[examples["prompt_harm"].notna()]
    rows = rows.sort_values("pair", key=lambda names: names == "", kind="stable")
    rows = rows.drop_duplicates(["context", "prompt", "prompt_harm"]).sort_index()
    return rows.assign(positive=rows["prompt_harm"].astype(bool), unit=rows["pair"])


def _reply_rows(examples: pd.DataFrame) -> pd.DataFrame:
    """Labelled replies to harmful prompts; replies to one prompt are one unit."""
    harmful = examples["prompt_harm"].fillna(False).astype(bool)
    rows = examples[harmful & examples["response_harm"].notna()]
    return rows.assign(positive=rows["response_harm"].astype(bool), unit=rows["prompt"])


def _require_both_classes(rows: pd.DataFrame) -> None:
    for context, found in rows.groupby("context", sort=False)["positive"]:
        harmful = int(found.sum())
        counts = {"harmful": harmful, "harmless": len(found) - harmful}
        for name, count in counts.items():
            if count < MIN_PER_CLASS:
                raise DataError(
                    f"the context '{context}' has {count} {name} examples, {MIN_PER_CLASS} are "
                    "needed: collect more, or leave this context out"
                )


def _matched(
    units: Sequence[str], contexts: Sequence[str], positive: Sequence[bool]
) -> Int[Tensor, " n"]:
    """The k-th harmful and the k-th harmless example of a unit in a context are a pair."""
    members: dict[tuple[str, str], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for number, (unit, context, is_harmful) in enumerate(
        zip(units, contexts, positive, strict=True)
    ):
        if unit:
            members[unit, context][is_harmful].append(number)
    pair = torch.full((len(positive),), NO_PAIR, dtype=torch.long)
    for safe, unsafe in members.values():
        for one, two in zip(safe, unsafe, strict=False):
            pair[one], pair[two] = two, one
    return pair


def _check_sizes(contrast: ContrastSet) -> None:
    n_layers, n, _ = contrast.states.shape
    if len(contrast.layers) != n_layers:
        raise DataError(f"{len(contrast.layers)} layers are named for states of {n_layers}")
    for name in ("positive", "context", "group", "pair", "lengths"):
        given = len(getattr(contrast, name))
        if given != n:
            raise DataError(f"'{name}' has {given} entries for {n} examples")


def _check_finite(contrast: ContrastSet) -> None:
    bad = (~contrast.states.isfinite().all(dim=-1)).nonzero()
    if len(bad):
        layer, example = bad[0].tolist()
        place = contrast.layers[layer]
        where = contrast.site if place is None else f"{contrast.site}, layer {place}"
        raise NonFiniteError(
            f"the state of example {example} ({where}) is NaN or infinite; "
            f"{len(bad)} states are: leave these examples out or collect them again"
        )


def _check_pairs(contrast: ContrastSet) -> None:
    n = len(contrast)
    paired = (contrast.pair != NO_PAIR).nonzero().flatten()
    other = contrast.pair[paired]
    if bool(((other < 0) | (other >= n)).any()):
        raise DataError(f"'pair' points outside the {n} examples; use -1 for none")
    if bool((contrast.pair[other] != paired).any()):
        raise DataError("'pair' is not mutual: where i points to j, j must point to i")
    if bool((contrast.positive[paired] == contrast.positive[other]).any()):
        raise DataError("a pair holds two examples of one class; pairs are harmful and harmless")
    for one, two in zip(paired.tolist(), other.tolist(), strict=True):
        if contrast.context[one] != contrast.context[two]:
            raise DataError(
                f"examples {one} and {two} are a pair of two contexts "
                f"({contrast.context[one]}, {contrast.context[two]}); pairs share one"
            )
