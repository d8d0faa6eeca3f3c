"""One site in one layer, as every part of the analysis looks at it."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.contrasts import ContrastSet
from probes.directions import DirectionOptions
from probes.instability.config import Effort, InstabilityConfig
from probes.instability.controls import Permutations
from probes.instability.plan import ResamplePlan
from probes.instability.sample import (
    FrameDirections,
    FrameSample,
    fit_frame,
    frame_samples,
    lacks_pairs,
)
from probes.records import Record


@dataclass(frozen=True, eq=False)
class Study:
    """What all sites of one contrast share.

    Attributes:
        config: Settings.
        plan: All resamples and splits.
        permutations: Of the labels.
        control: Random labels of the harmless and the harmful requests of every group.
        backbone: Name of the frozen model.
        seed: Of everything random.
    """

    config: InstabilityConfig
    plan: ResamplePlan
    permutations: Permutations
    control: Bool[Tensor, "task group 2"]
    backbone: str
    seed: int


@dataclass(frozen=True, eq=False)
class SiteView:
    """One site in all its layers.

    Attributes:
        study: What it shares with the other sites.
        given: The states.
        samples: The same, context by context, under the whole plan.
    """

    study: Study
    given: ContrastSet
    samples: tuple[FrameSample, ...]

    @classmethod
    def of(cls, study: Study, given: ContrastSet) -> "SiteView":
        """Look up the weights of every context."""
        least = study.config.min_per_class
        return cls(study, given, frame_samples(given, study.plan, min_per_class=least))

    @property
    def contexts(self) -> tuple[str, ...]:
        """Names of the contexts."""
        return tuple(sample.name for sample in self.samples)

    @property
    def n_groups(self) -> int:
        """Groups of all contexts together."""
        return len(set(self.given.group))

    def under(self, effort: Effort) -> tuple[FrameSample, ...]:
        """The contexts with so many resamples and splits."""
        plan = self.study.plan.shortened(effort.resamples, effort.splits)
        return tuple(sample.under(plan) for sample in self.samples)

    def template(self, layer: int) -> Record:
        """What all records of a layer (its place in the states) have in common."""
        return Record(
            probe="instability",
            backbone=self.study.backbone,
            metric="",
            estimate=float("nan"),
            n=self.n_groups,
            seed=self.study.seed,
            contrast=self.given.contrast,
            site=self.given.site,
            layer=self.given.layers[layer],
        )


@dataclass(frozen=True, eq=False)
class DirectionView:
    """The directions of one site, layer and estimator.

    Attributes:
        site: Where.
        layer: Place of the layer in the states.
        estimator: Name of the estimator.
        effort: Resamples and splits that were fitted.
        options: Settings of the estimator in every context.
        fits: Directions of every context.
        reasons: Why a context has none; empty where it has.
    """

    site: SiteView
    layer: int
    estimator: str
    effort: Effort
    options: tuple[DirectionOptions, ...]
    fits: tuple[FrameDirections, ...]
    reasons: tuple[str, ...]

    @classmethod
    def fit(cls, site: SiteView, layer: int, estimator: str, effort: Effort) -> "DirectionView":
        """Fit all resamples and halves of all contexts."""
        samples = site.under(effort)
        # One rule at every scale. A penalty chosen by validation differs from context to context,
        # which turns directions by itself and is not in the intervals.
        options = (DirectionOptions(),) * len(samples)
        fits = tuple(
            fit_frame(estimator, sample, layer, settings)
            for sample, settings in zip(samples, options, strict=True)
        )
        reasons = tuple(_reason(estimator, sample, layer) for sample in samples)
        return cls(site, layer, estimator, effort, options, fits, reasons)

    @cached_property
    def full(self) -> Float[Tensor, "frame draw width"]:
        """Directions of all contexts, fitted on all examples."""
        return torch.stack([fit.full for fit in self.fits])

    @cached_property
    def halves(self) -> Float[Tensor, "frame draw split half width"]:
        """Directions of all contexts, fitted on the halves."""
        return torch.stack([fit.halves for fit in self.fits])

    def at_most(self, effort: Effort) -> Effort:
        """An effort, cut to what was fitted."""
        return Effort(
            min(effort.resamples, self.effort.resamples), min(effort.splits, self.effort.splits)
        )

    def halves_under(self, effort: Effort) -> Float[Tensor, "frame draw split half width"]:
        """The directions of the halves for fewer resamples and splits."""
        plan = self.site.study.plan.shortened(self.effort.resamples, self.effort.splits)
        return self.halves[:, plan.draws(effort.resamples), : effort.splits]

    def template(self, first: int | None = None, second: int | None = None) -> Record:
        """What records have in common; with places of contexts, for those contexts."""
        names = [None if place is None else self.site.samples[place] for place in (first, second)]
        a, b = names
        record = replace(self.site.template(self.layer), estimator=self.estimator)
        if a is None:
            return record
        groups = set(a.group.tolist())
        if b is not None:
            groups |= set(b.group.tolist())
        return replace(
            record, context_a=a.name, context_b="" if b is None else b.name, n=len(groups)
        )

    def reason(self, *places: int) -> str:
        """Why any of some contexts has no direction; empty where all have."""
        for place in dict.fromkeys(places):
            if self.reasons[place]:
                return f"{self.site.contexts[place]}: {self.reasons[place]}"
        return ""


def _reason(estimator: str, sample: FrameSample, layer: int) -> str:
    reason = sample.reason_at(layer)
    if not reason and lacks_pairs(estimator, sample):
        return f"{estimator} needs matched pairs, there are none"
    return reason
