"""Two classes of states, lined up over contexts: the one input of every direction analysis.

A *contrast* says which two classes a value direction tells apart:

============  ==================================================  =============================
``prompt``    harmful against harmless requests                   every prompt counts once
``response``  harmful against safe replies to harmful requests    the prompt's harm is constant
============  ==================================================  =============================

Where an example has a matched counterpart (same context, other class, as alike as possible
otherwise), ``pair`` points to it; estimators that need paired differences use it.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import DataError, NonFiniteError

Contrast = Literal["prompt", "response"]
CONTRASTS: tuple[Contrast, ...] = get_args(Contrast)
NO_PAIR = -1


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


def _check_sizes(contrast: ContrastSet) -> None:
    if contrast.states.ndim != 3:
        raise DataError(
            f"states of shape {tuple(contrast.states.shape)} given, (layer, example, width) needed"
        )
    n_layers, n, _ = contrast.states.shape
    if len(contrast.layers) != n_layers:
        raise DataError(f"{len(contrast.layers)} layers are named for states of {n_layers}")
    for name in ("positive", "context", "group", "pair", "lengths"):
        given = len(getattr(contrast, name))
        if given != n:
            raise DataError(f"'{name}' has {given} entries for {n} examples")
    if contrast.contrast not in CONTRASTS:
        raise DataError(
            f"unknown contrast '{contrast.contrast}'; choose one of {', '.join(CONTRASTS)}"
        )


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
