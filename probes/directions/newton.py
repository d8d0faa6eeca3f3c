"""Logistic regressions of all resamples at once, by Newton's method with conjugate gradients.

For every resample r, over a slope θ and an intercept b that is not penalised, minimise

    F_r(θ, b) = Σ_i w_ri log(1 + exp(-y_i (x_i·θ + b))) + |θ|² / (2 C_r)

The resamples share the states x and differ in their weights, so one matrix product serves all:

1. Slope and curvature of the loss by the scores f = Xθ + b.
2. Solve H Δ = -g by conjugate gradients, as exactly as the gradient is small already; in single
   precision, as the next gradient, in double precision, corrects what is lost. The preconditioner
   is the diagonal of H in the principal axes of the states, which is nearly all of H there.
3. Halve the step until F falls as much as its slope promises. Scores are linear in the step, so
   this costs no product.
4. A resample leaves when its gradient, in the metric of the preconditioner, is a small part of θ.

The penalty makes the minimum unique and finite, also where a plane separates the classes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.linalg import vecdot

TOLERANCE = 1e-6
"""Gradient left, next to the size of θ: about the angle by which a direction is off."""

MAX_STEPS = 100
MAX_INNER = 250
MAX_HALVINGS = 40
SUFFICIENT = 1e-4
"""Share of the promised decrease that a step must bring (Armijo)."""

LOOSEST, TIGHTEST = 0.5, 1e-4
"""Bounds on the share of a gradient that the inner solve leaves; single precision does no more."""


@dataclass(frozen=True, eq=False)
class LogisticFit:
    """Where the search ended, for every resample.

    Attributes:
        slope: θ.
        intercept: b.
        converged: Whether the gradient vanished.
    """

    slope: Float[Tensor, "resample rank"]
    intercept: Float[Tensor, " resample"]
    converged: Bool[Tensor, " resample"]


def logistic_loss(
    scores: Float[Tensor, "resample n"],
    signs: Float[Tensor, " n"],
    weights: Float[Tensor, "resample n"],
) -> Float[Tensor, " resample"]:
    """Σ_i w_i log(1 + exp(-y_i f_i))."""
    losses = torch.logaddexp(-signs * scores, scores.new_zeros(()))
    return (weights * losses).sum(dim=-1)


def fit_logistic(
    states: Float[Tensor, "n rank"],
    signs: Float[Tensor, " n"],
    weights: Float[Tensor, "resample n"],
    c: Float[Tensor, " resample"],
) -> LogisticFit:
    """Minimise F for every resample.

    Args:
        states: States x, not all the same, in double precision.
        signs: Classes y, 1 or -1.
        weights: How much each example counts.
        c: Inverse penalties C, above 0.
    """
    design = _Design.of(states, weights.mean(dim=0))
    found = states.new_zeros((len(weights), design.columns.shape[1]))
    search = _Search(signs, weights, design.penalties(c), found, torch.zeros_like(weights))
    converged = torch.zeros(len(weights), dtype=torch.bool)
    active = torch.arange(len(weights))
    for _ in range(MAX_STEPS):
        model = _expand(design, search)
        done = model.left <= TOLERANCE**2 * model.size
        converged[active[done]] = True
        going = (~done).nonzero().flatten()
        if not len(going):
            break
        active, search, model = active[going], search.rows(going), model.rows(going)
        search, moved = _step(design, search, model)
        found[active] = search.at
        active, search = active[moved], search.rows(moved)
    return LogisticFit(*design.leave(found), converged)


@dataclass(frozen=True, eq=False)
class _Design:
    """Centred states in their principal axes, of mean square 1, with a column of ones at the end.

    The column belongs to the intercept. The scale keeps all that follows in the range of single
    precision. An example counts for mean, axes and scale as much as it does in all resamples
    together; one that none of them holds, not at all.
    """

    columns: Float[Tensor, "n coefficient"]
    single: Float[Tensor, "n coefficient"]
    squares: Float[Tensor, "n coefficient"]
    mean: Float[Tensor, " rank"]
    axes: Float[Tensor, "rank rank"]
    scale: float

    @classmethod
    def of(cls, states: Float[Tensor, "n rank"], importance: Float[Tensor, " n"]) -> "_Design":
        share = importance / importance.sum()
        mean = share @ states
        centred = states - mean
        variances, axes = torch.linalg.eigh(centred.T @ (share[:, None] * centred))
        scale = float(variances.sum().sqrt())
        columns = torch.cat([centred @ axes / scale, states.new_ones((len(states), 1))], dim=1)
        return cls(columns, columns.float(), columns.square(), mean, axes, scale)

    def penalties(self, c: Float[Tensor, " resample"]) -> Float[Tensor, "resample coefficient"]:
        """1 / C for every slope, in the scale of the columns; the intercept has none."""
        repeated = (1 / (c * self.scale**2))[:, None].repeat(1, self.columns.shape[1])
        repeated[:, -1] = 0.0
        return repeated

    def leave(
        self, at: Float[Tensor, "resample coefficient"]
    ) -> tuple[Float[Tensor, "resample rank"], Float[Tensor, " resample"]]:
        """The slope and the intercept that give the scores of some coefficients."""
        slope = at[:, :-1] @ self.axes.T / self.scale
        return slope, at[:, -1] - slope @ self.mean


@dataclass(frozen=True, eq=False)
class _Search:
    """What some resamples minimise, and where they are: coefficients and their scores."""

    signs: Float[Tensor, " n"]
    weights: Float[Tensor, "resample n"]
    penalties: Float[Tensor, "resample coefficient"]
    at: Float[Tensor, "resample coefficient"]
    scores: Float[Tensor, "resample n"]

    def rows(self, index: Int[Tensor, " row"]) -> "_Search":
        rest = (each[index] for each in (self.weights, self.penalties, self.at, self.scores))
        return _Search(self.signs, *rest)

    def loss(self, scores: Float[Tensor, "resample n"]) -> Float[Tensor, " resample"]:
        return logistic_loss(scores, self.signs, self.weights)


@dataclass(frozen=True, eq=False)
class _Model:
    """F around a place: the curvature by every score, g, the diagonal of H as a metric.

    ``left`` and ``size`` are the squared lengths of g and of θ in that metric.
    """

    curvature: Float[Tensor, "resample n"]
    gradient: Float[Tensor, "resample coefficient"]
    metric: Float[Tensor, "resample coefficient"]
    left: Float[Tensor, " resample"]
    size: Float[Tensor, " resample"]

    def rows(self, index: Int[Tensor, " row"]) -> "_Model":
        parts = (self.curvature, self.gradient, self.metric, self.left, self.size)
        return _Model(*(part[index] for part in parts))


def _expand(design: _Design, search: _Search) -> _Model:
    wrong = torch.sigmoid(-search.signs * search.scores)
    slopes = search.weights * wrong
    curvature = slopes * (1 - wrong)
    gradient = -(search.signs * slopes) @ design.columns + search.penalties * search.at
    metric = curvature @ design.squares + search.penalties
    metric = metric.clamp(min=torch.finfo(torch.float32).tiny)
    left = vecdot(gradient, gradient / metric)
    size = vecdot(search.at[:, :-1], (metric * search.at)[:, :-1])
    return _Model(curvature, gradient, metric, left, size)


def _step(design: _Design, search: _Search, model: _Model) -> tuple[_Search, Int[Tensor, " row"]]:
    """Every resample one Newton step further, and which of them could take it."""
    change = _newton_change(design, search.penalties, model)
    scores = change @ design.columns.T
    length = _step_length(search, change, scores, vecdot(model.gradient, change))
    at, scores = search.at + length * change, search.scores + length * scores
    moved = (length[:, 0] > 0).nonzero().flatten()
    return _Search(search.signs, search.weights, search.penalties, at, scores), moved


def _newton_change(
    design: _Design, penalties: Float[Tensor, "resample coefficient"], model: _Model
) -> Float[Tensor, "resample coefficient"]:
    """Solve H Δ = -g by preconditioned conjugate gradients."""
    norm = model.left.sqrt()[:, None]  # right sides of length 1 stay in range
    residual = -(model.gradient / norm).float()
    goal = (model.left / model.size).clamp(TIGHTEST**2, LOOSEST**2).float()
    curvature, metric = model.curvature.float(), model.metric.float()
    penalties = penalties.float()
    change = torch.zeros_like(residual)
    along = scaled = residual / metric
    size = vecdot(residual, scaled)
    for _ in range(MAX_INNER):
        going = size > goal
        if not bool(going.any()):
            break
        product = (curvature * (along @ design.single.T)) @ design.single + penalties * along
        length = torch.where(going, size / vecdot(along, product), 0.0)[:, None]
        change = torch.addcmul(change, length, along)
        residual = torch.addcmul(residual, length, product, value=-1.0)
        scaled = residual / metric
        before, size = size, torch.where(going, vecdot(residual, scaled), size)
        along = torch.addcmul(scaled, (size / before)[:, None], along)
    return change.double() * norm


def _step_length(
    search: _Search,
    change: Float[Tensor, "resample coefficient"],
    change_of_scores: Float[Tensor, "resample n"],
    promised: Float[Tensor, " resample"],
) -> Float[Tensor, "resample 1"]:
    """Largest of 1, ½, ¼ ... that brings enough; 0 where none does."""
    before = search.loss(search.scores)
    linear = vecdot(search.penalties * search.at, change)
    square = vecdot(search.penalties * change, change)
    rounding = 1e-14 * before
    step = torch.ones_like(before)
    enough = torch.zeros_like(before, dtype=torch.bool)
    for _ in range(MAX_HALVINGS):
        after = search.loss(search.scores + step[:, None] * change_of_scores)
        rise = after - before + step * linear + 0.5 * step**2 * square
        enough = rise <= SUFFICIENT * step * promised + rounding
        if bool(enough.all()):
            break
        step = torch.where(enough, step, step / 2)
    return torch.where(enough, step, 0.0)[:, None]
