"""The whole instability analysis: sets of states in, records out."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch

from probes.collection.sites import TOKEN_SITE
from probes.contrasts import ContrastSet
from probes.instability.config import InstabilityConfig
from probes.instability.controls import Permutations, control_labels
from probes.instability.direction_records import direction_records, drift_records
from probes.instability.plan import TEST, ResamplePlan
from probes.instability.reporting import Column, joined
from probes.instability.site_records import length_records, site_records
from probes.instability.stability import Instability, index_difference
from probes.instability.view import DirectionView, SiteView, Study
from probes.records import Record
from workbench.arguments import Seed, typed_arguments
from workbench.errors import DataError

MEAN_SITE = "response_mean"
_STEP = "@"


@typed_arguments
def run_instability(
    sets: Sequence[ContrastSet],
    config: InstabilityConfig = InstabilityConfig(),  # noqa: B008 - frozen
    *,
    backbone: str,
    seed: Seed = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Record]:
    """Measure how far value directions turn, at every site, and what noise and nothing would give.

    All sites share one plan of resamples (see :mod:`probes.instability.plan`), so that their
    differences are paired. Sites are taken as they come: an untrained value module or a bridge at
    random initialisation is one more site. Sites called ``response_tokens@STEP`` are compared with
    their first step and, where it is given, with ``response_mean``.

    Records, by ``metric``:

    ==========================  ================================================================
    ``reliability``             split-half, at full size: the noise ceiling of each context
    ``cosine``                  between contexts, raw; null and p from permuted labels
    ``cosine_corrected``        between contexts, over the noise ceiling; not clipped
    ``instability_index``       1 - mean corrected cosine over pairs of contexts
    ``instability_difference``  index of a site with layers - index of ``site``
    ``layer_cosine``            with the layer ``x``, same context; also ``_corrected``
    ``step_cosine``             of token ``x`` with the first; also ``_corrected``
    ``step_cosine_mean``        of token ``x`` with the mean over the response; ``_corrected``
    ``transfer_auroc``          fitted in ``context_a``, tested in ``context_b`` on other groups
    ``transfer_accuracy``       the same, at the threshold of ``context_a``
    ``transfer_drop``           AUROC of ``context_b``'s own direction - that of ``context_a``'s
    ``variance_share``          of held-out variance along the direction
    ``signal_share``            of held-out variance that is harm, along the direction
    ``effective_dimension``     participation ratio of the states
    ``principal_angle``         the ``x``-th, in degrees, between subspaces of differences
    ``selectivity``             accuracy - accuracy of random labels, in other contexts
    ``permutation_auroc``       in-context AUROC under permuted labels, and its p-value
    ``random_direction_auroc``  in-context AUROC of random directions
    ``length_auroc``            of the number of tokens
    ==========================  ================================================================

    Means over pairs of contexts have empty contexts.

    Args:
        sets: States at the sites to compare.
        config: Settings.
        backbone: Name of the frozen model.
        seed: Of everything random.
        on_progress: Told how many parts of how many are done.

    Raises:
        DataError: No set, a site given twice, a context that no set has, or too few groups.
    """
    chosen = _in_contexts(sets, config.contexts)
    plan_rng, control_rng, rng = np.random.default_rng(seed).spawn(3)
    plan = ResamplePlan.draw(
        chosen,
        n_resamples=max(config.cheap.resamples, config.costly.resamples),
        n_halves=max(config.cheap.splits, config.costly.splits),
        rng=plan_rng,
    )
    progress = _Progress(_count_parts(chosen, config), on_progress)
    records: list[Record] = []
    with _one_thread():
        for contrast in dict.fromkeys(given.contrast for given in chosen):
            of_contrast = [given for given in chosen if given.contrast == contrast]
            study = _study(of_contrast, plan, config, (backbone, seed), control_rng)
            records += _Analysis(study, of_contrast, progress, rng).records()
    return records


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread inside, as many as before afterwards.

    The analysis is very many small products. Threads gain little on them, and where other
    processes want the same cores they wait for each other: with two threads on two busy cores it
    took fourteen times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Progress:
    """Counts finished parts."""

    total: int
    tell: Callable[[int, int], None]
    done: int = 0

    def __post_init__(self) -> None:
        self.tell(0, self.total)

    def step(self) -> None:
        """One more part is done."""
        self.done += 1
        self.tell(self.done, self.total)


Found = dict[tuple[str, int | None, str], Instability]
"""What the index is made of, by site, layer and estimator."""


@dataclass(frozen=True, eq=False)
class _Analysis:
    """All sites of one contrast.

    Attributes:
        study: What they share.
        sets: Their states.
        progress: Told of every part.
        rng: Draws the random controls.
    """

    study: Study
    sets: Sequence[ContrastSet]
    progress: _Progress
    rng: np.random.Generator

    def records(self) -> list[Record]:
        """Everything about them."""
        plain = [given for given in self.sets if _STEP not in given.site]
        steps = [given for given in self.sets if _STEP in given.site]
        records = list(length_records(self._template(), self.sets[0], self.rng))
        found: Found = {}
        for given in plain:
            records += self._site(SiteView.of(self.study, given), found)
        records += self._differences(plain, found)
        return records + self._steps(
            sorted(steps, key=_step_of), [given for given in plain if given.site == MEAN_SITE]
        )

    def _template(self) -> Record:
        return Record(
            probe="instability",
            backbone=self.study.backbone,
            metric="",
            estimate=math.nan,
            seed=self.study.seed,
            contrast=self.sets[0].contrast,
        )

    def _site(self, site: SiteView, found: Found) -> list[Record]:
        records: list[Record] = []
        for layer in range(len(site.given.layers)):
            records += site_records(site, layer, self.rng)
            self.progress.step()
        for estimator in self.study.config.estimators:
            before: DirectionView | None = None
            for layer, number in enumerate(site.given.layers):
                effort = self.study.config.effort(estimator)
                view = DirectionView.fit(site, layer, estimator, effort)
                of_layer, found[site.given.site, number, estimator] = direction_records(
                    view, before
                )
                records += of_layer
                before = view
                self.progress.step()
        return records

    def _differences(self, sets: Sequence[ContrastSet], found: Found) -> Iterator[Record]:
        """Every layer of the sites with layers against every site without."""
        layered = [given for given in sets if given.layers != (None,)]
        others = [given for given in sets if given.layers == (None,)]
        for reference, other, estimator in product(layered, others, self.study.config.estimators):
            for layer in reference.layers:
                template = replace(
                    self._template(),
                    site=other.site,
                    layer=layer,
                    estimator=estimator,
                    n=len({*reference.group, *other.group}),
                    note=f"{reference.site} minus {other.site}",
                )
                one = found[reference.site, layer, estimator]
                two = found[other.site, None, estimator]
                yield difference_record(template, one, two)

    def _steps(self, steps: Sequence[ContrastSet], mean: Sequence[ContrastSet]) -> list[Record]:
        """The first step against every later one, and the mean over the response against all."""
        if not steps:
            return []
        records: list[Record] = []
        sites = [SiteView.of(self.study, given) for given in steps]
        across = [SiteView.of(self.study, given) for given in mean]
        for layer, number in enumerate(steps[0].layers):
            first = self._step_view(sites[0], layer)
            means = [self._step_view(site, layer) for site in across]
            for place, site in enumerate(sites):
                if site.given.layers[layer] != number:
                    raise DataError(
                        f"{site.given.site} has other layers than {steps[0].site}: collect the "
                        "same layers for all steps"
                    )
                view = first if place == 0 else self._step_view(site, layer)
                x = float(_step_of(site.given))
                named = [("step_cosine", first)] if place else []
                named += [("step_cosine_mean", whole) for whole in means]
                for metric, other in named:
                    compared = drift_records(view, other, metric, x)
                    records += [replace(record, site=TOKEN_SITE) for record in compared]
                self.progress.step()
        return records

    def _step_view(self, site: SiteView, layer: int) -> DirectionView:
        config = self.study.config
        return DirectionView.fit(site, layer, config.estimators[0], config.transfer)


def difference_record(template: Record, one: Instability, two: Instability) -> Record:
    """Index of one site minus that of another, on the same resamples, with its test.

    Args:
        template: Everything but the numbers.
        one: What the index of the first is made of.
        two: Of the second.
    """
    values, n_pairs = index_difference(one, two)
    column = Column.of("instability_difference", values)
    template = replace(
        template,
        null=0.0,
        p_value=float(column.spread.sign_flip_p_value(n_groups=template.n)),
        ci_method=TEST,
        note=joined(template.note, f"over {n_pairs} pairs of contexts"),
    )
    return column.record(template, reason="" if n_pairs else "no pair of contexts reliable in both")


def _in_contexts(
    sets: Sequence[ContrastSet], contexts: tuple[str, ...] | None
) -> list[ContrastSet]:
    """The sets without the contexts that were not asked for."""
    if not sets:
        raise DataError("no states to analyse: collect at least one site")
    names = [(given.contrast, given.site) for given in sets]
    twice = [site for (contrast, site) in names if names.count((contrast, site)) > 1]
    if twice:
        raise DataError(f"the site '{twice[0]}' is given twice; give each site once")
    if contexts is None:
        return list(sets)
    known = dict.fromkeys(name for given in sets for name in given.contexts)
    for name in contexts:
        if name not in known:
            raise DataError(f"no states in the context '{name}'; there are {', '.join(known)}")
    return [_only(given, set(contexts)) for given in sets]


def _only(given: ContrastSet, contexts: set[str]) -> ContrastSet:
    rows = [i for i, where in enumerate(given.context) if where in contexts]
    if not rows:
        raise DataError(
            f"the site '{given.site}' has states in none of the chosen contexts; it has "
            f"{', '.join(given.contexts)}"
        )
    return given.rows(torch.tensor(rows))


def _study(
    sets: Sequence[ContrastSet],
    plan: ResamplePlan,
    config: InstabilityConfig,
    names: tuple[str, int],
    rng: np.random.Generator,
) -> Study:
    backbone, seed = names
    return Study(
        config=config,
        plan=plan,
        permutations=Permutations.draw(
            sets, plan, n_permutations=max(config.permutations, config.costly_permutations), rng=rng
        ),
        control=control_labels(plan, n_tasks=config.control_tasks, rng=rng),
        backbone=backbone,
        seed=seed,
    )


def _step_of(given: ContrastSet) -> int:
    return int(given.site.partition(_STEP)[2])


def _count_parts(sets: Sequence[ContrastSet], config: InstabilityConfig) -> int:
    return sum(
        len(given.layers) * (1 if _STEP in given.site else 1 + len(config.estimators))
        for given in sets
    )
