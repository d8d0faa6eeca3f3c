"""Records that need no estimator: dimensions, subspaces, random directions, length."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.contrasts import NO_PAIR, ContrastSet
from probes.instability.controls import RANDOM_KINDS, random_auroc
from probes.instability.reporting import Column, not_measured, range_record
from probes.instability.sample import FrameSample
from probes.instability.subspaces import crossed_angles, half_subspaces, random_angles
from probes.instability.variance import effective_dimension
from probes.instability.view import SiteView
from probes.records import Record
from workbench.statistics import auroc

LENGTH_SITE = "length"


def site_records(site: SiteView, layer: int, rng: np.random.Generator) -> list[Record]:
    """Everything about one site and layer that no estimator enters.

    Args:
        site: The site.
        layer: Place of the layer in its states.
        rng: Draws random directions and subspaces.
    """
    return [
        *_dimension_records(site, layer),
        *_angle_records(site, layer, rng),
        *_random_records(site, layer, rng),
    ]


def length_records(
    template: Record, given: ContrastSet, rng: np.random.Generator
) -> Iterator[Record]:
    """How well the number of tokens alone tells the classes apart, in every context.

    Args:
        template: What the records have in common.
        given: A set of the contrast.
        rng: Draws the resamples.
    """
    for name in given.contexts:
        here = given.in_context(name)
        scores, labels = here.lengths.double().numpy(), here.positive.numpy()
        found = auroc(scores, labels, rng=rng, clusters=np.array(here.group))
        place = replace(template, metric="length_auroc", site=LENGTH_SITE, context_a=name, null=0.5)
        yield place.measured(found)


def _context_template(site: SiteView, layer: int, sample: FrameSample) -> Record:
    return replace(site.template(layer), context_a=sample.name, n=sample.n_groups)


def _dimension_records(site: SiteView, layer: int) -> Iterator[Record]:
    for sample in site.under(site.study.config.transfer):
        template = replace(_context_template(site, layer, sample), null=float(sample.width))
        column = Column.of("effective_dimension", effective_dimension(sample, layer))
        yield column.record(template, reason=sample.reason_at(layer))


def _random_records(site: SiteView, layer: int, rng: np.random.Generator) -> Iterator[Record]:
    config = site.study.config
    for sample in site.under(config.controls):
        for kind in RANDOM_KINDS:
            template = replace(
                _context_template(site, layer, sample),
                estimator=kind,
                null=0.5,
                ci_method="range of 95% of the directions",
            )
            if sample.reason_at(layer):
                yield not_measured(template, "random_direction_auroc", sample.reason_at(layer))
                continue
            found = random_auroc(
                sample, layer, kind, n_directions=config.random_directions, rng=rng
            )
            yield range_record(template, "random_direction_auroc", found.double().numpy())


# ----------------------------------------------------------------------------------------- angles


def _angle_records(site: SiteView, layer: int, rng: np.random.Generator) -> Iterator[Record]:
    """Angles of every pair of contexts, and their mean over the pairs; ``x`` counts the angles."""
    samples = site.under(site.study.config.angles)
    k = min(site.study.config.subspace, samples[0].width)
    bases = [half_subspaces(sample, layer, k) for sample in samples]
    random = random_angles(samples[0].width, k, rng)
    noise = [crossed_angles(basis, basis) for basis in bases]
    reasons = [_angle_reason(sample, layer, k) for sample in samples]
    angles, ceilings = [], []
    for a, b in combinations(range(len(samples)), 2):
        reason = next((f"{samples[p].name}: {reasons[p]}" for p in (a, b) if reasons[p]), "")
        angle, ceiling = crossed_angles(bases[a], bases[b]), (noise[a][0] + noise[b][0]) / 2
        template = replace(
            _context_template(site, layer, samples[a]),
            context_b=samples[b].name,
            n=len({*samples[a].group.tolist(), *samples[b].group.tolist()}),
        )
        yield from _each_angle(template, angle, ceiling, random, reason)
        if not reason:
            angles.append(angle)
            ceilings.append(ceiling)
    if angles:
        mean, ceiling = torch.stack(angles).mean(dim=0), torch.stack(ceilings).mean(dim=0)
        yield from _each_angle(site.template(layer), mean, ceiling, random, "")


def _each_angle(
    template: Record,
    angles: Float[Tensor, "draw rank"],
    ceiling: Float[Tensor, " rank"],
    random: Float[Tensor, " rank"],
    reason: str,
) -> Iterator[Record]:
    column = Column.of("principal_angle", angles)
    for place in range(angles.shape[1]):
        numbered = replace(
            template, x=float(place + 1), ceiling=float(ceiling[place]), null=float(random[place])
        )
        yield column.record(numbered, place, reason=reason)


def _angle_reason(sample: FrameSample, layer: int, k: int) -> str:
    if sample.reason_at(layer):
        return sample.reason_at(layer)
    if sample.width == 1:
        return "the site has one dimension, in which a subspace cannot turn"
    harmful = ((sample.pair != NO_PAIR) & sample.positive).nonzero().flatten()
    together = sample.halves[..., harmful] & sample.halves[..., sample.pair[harmful]]
    fewest = int(together.sum(dim=-1).min())
    if fewest < k:
        return f"{fewest} matched pairs in a half, {k} needed for a subspace of {k} dimensions"
    return ""
