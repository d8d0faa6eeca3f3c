"""Linear models of all resamples at once, by Newton's method with inner conjugate gradients.

For every resample r, over a slope θ and an intercept b that is not penalised, minimise

    F_r(θ, b) = Σ_i loss_ri(x_i·θ + b) + ½ κ_r |θ|²

The resamples share the states x and differ in their weights, so one matrix product serves all:

1. Slope and curvature of the loss by the scores f = Xθ + b; of a loss that is not convex the
   Gauss-Newton part of its curvature, which is never negative.
2. Solve H Δ = -g by conjugate gradients, as exactly as the gradient is small already; in single
   precision, as the next gradient, in double precision, corrects what is lost. The preconditioner
   is the diagonal that H would have if all examples curved alike: in the principal axes of the
   states it is all of H then.
3. Halve the step until F falls as much as its slope promises. Scores are linear in the step, so
   this costs no product.
4. A resample leaves when its gradient, in the metric of the preconditioner, is a small part of θ,
   or when no step brings it lower.
"""

from abc import ABC, abstractmethod
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
class Local:
    """A loss around some scores.

    Attributes:
        slope: Derivative of the loss by every score.
        diagonal: Its curvature by every score.
        coupling: Its curvature by a score of the first half of the examples and its counterpart
            in the second half; None where examples do not interact.
    """

    slope: Float[Tensor, "resample n"]
    diagonal: Float[Tensor, "resample n"]
    coupling: Float[Tensor, "resample pair"] | None = None

    def rows(self, index: Int[Tensor, " row"]) -> "Local":
        """The loss of some resamples."""
        coupling = None if self.coupling is None else self.coupling[index]
        return Local(self.slope[index], self.diagonal[index], coupling)

    def single(self) -> "Local":
        """The same in single precision."""
        coupling = None if self.coupling is None else self.coupling.float()
        return Local(self.slope.float(), self.diagonal.float(), coupling)

    def times(self, change: Float[Tensor, "resample n"]) -> Float[Tensor, "resample n"]:
        """The curvature times a change of the scores."""
        product = self.diagonal * change
        if self.coupling is not None:
            first, second = change.chunk(2, dim=-1)
            product += torch.cat([self.coupling * second, self.coupling * first], dim=-1)
        return product


class Loss(ABC):
    """A loss of the scores of every resample."""

    @abstractmethod
    def rows(self, index: Int[Tensor, " row"]) -> "Loss":
        """The loss of some resamples."""

    @abstractmethod
    def value(self, scores: Float[Tensor, "resample n"]) -> Float[Tensor, " resample"]:
        """Sum of the loss over the examples."""

    @abstractmethod
    def around(self, scores: Float[Tensor, "resample n"]) -> Local:
        """Slope and curvature."""


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where a search ended.

    Attributes:
        slope: θ.
        intercept: b.
        value: F there.
        converged: Whether the gradient vanished.
    """

    slope: Float[Tensor, "resample rank"]
    intercept: Float[Tensor, " resample"]
    value: Float[Tensor, " resample"]
    converged: Bool[Tensor, " resample"]


def minimise(
    states: Float[Tensor, "n rank"],
    loss: Loss,
    penalty: Float[Tensor, " resample"],
    slope: Float[Tensor, "resample rank"],
    intercept: Float[Tensor, " resample"],
    *,
    tolerance: float = TOLERANCE,
) -> Minimum:
    """Search downhill, for every resample.

    Args:
        states: Centred states, not all the same.
        loss: Of the scores.
        penalty: κ, above 0.
        slope: θ to start from.
        intercept: b to start from.
        tolerance: When to stop.
    """
    design = _Design.of(states)
    penalties, found = design.penalties(penalty), design.enter(slope, intercept)
    converged = torch.zeros(len(found), dtype=torch.bool)
    active = torch.arange(len(found))
    search = _Search(loss, penalties, found, found @ design.columns.T)
    for _ in range(MAX_STEPS):
        model = _expand(design, search)
        done = model.left <= tolerance**2 * model.size
        converged[active[done]] = True
        going = (~done).nonzero().flatten()
        if not len(going):
            break
        active, search, model = active[going], search.rows(going), model.rows(going)
        search, moved = _step(design, search, model)
        found[active] = search.at
        active, search = active[moved], search.rows(moved)
    value = loss.value(found @ design.columns.T) + 0.5 * vecdot(penalties * found, found)
    return Minimum(design.leave(found), found[:, -1], value, converged)


@dataclass(frozen=True, eq=False)
class _Design:
    """States in their principal axes, scaled to mean square 1, with a column of ones at the end.

    The column belongs to the intercept. The scale keeps all that follows in the range of single
    precision.
    """

    columns: Float[Tensor, "n coefficient"]
    single: Float[Tensor, "n coefficient"]
    squares: Float[Tensor, " coefficient"]
    axes: Float[Tensor, "rank rank"]
    scale: float

    @classmethod
    def of(cls, states: Float[Tensor, "n rank"]) -> "_Design":
        squares, axes = torch.linalg.eigh(states.T @ states / len(states))
        scale = float(squares.sum().sqrt())
        columns = torch.cat([states @ axes / scale, states.new_ones((len(states), 1))], dim=1)
        squares = torch.cat([squares.clamp(min=0.0) / scale**2, squares.new_ones(1)])
        return cls(columns, columns.float(), squares, axes, scale)

    def penalties(
        self, penalty: Float[Tensor, " resample"]
    ) -> Float[Tensor, "resample coefficient"]:
        """κ of every coefficient; the intercept has none."""
        repeated = (penalty / self.scale**2)[:, None].repeat(1, len(self.squares))
        repeated[:, -1] = 0.0
        return repeated

    def enter(
        self, slope: Float[Tensor, "resample rank"], intercept: Float[Tensor, " resample"]
    ) -> Float[Tensor, "resample coefficient"]:
        """Coefficients of the columns that give the scores of slope and intercept."""
        return torch.cat([slope @ self.axes * self.scale, intercept[:, None]], dim=1)

    def leave(self, at: Float[Tensor, "resample coefficient"]) -> Float[Tensor, "resample rank"]:
        """The slope that gives the scores of some coefficients."""
        return at[:, :-1] @ self.axes.T / self.scale


@dataclass(frozen=True, eq=False)
class _Search:
    """Where some resamples are: coefficients and their scores."""

    loss: Loss
    penalties: Float[Tensor, "resample coefficient"]
    at: Float[Tensor, "resample coefficient"]
    scores: Float[Tensor, "resample n"]

    def rows(self, index: Int[Tensor, " row"]) -> "_Search":
        return _Search(
            self.loss.rows(index), self.penalties[index], self.at[index], self.scores[index]
        )


@dataclass(frozen=True, eq=False)
class _Model:
    """F around a place, to second order; squared sizes of g and θ in the metric."""

    local: Local
    gradient: Float[Tensor, "resample coefficient"]
    metric: Float[Tensor, "resample coefficient"]
    left: Float[Tensor, " resample"]
    size: Float[Tensor, " resample"]

    def rows(self, index: Int[Tensor, " row"]) -> "_Model":
        rest = (each[index] for each in (self.gradient, self.metric, self.left, self.size))
        return _Model(self.local.rows(index), *rest)


def _expand(design: _Design, search: _Search) -> _Model:
    local = search.loss.around(search.scores)
    gradient = local.slope @ design.columns + search.penalties * search.at
    metric = local.diagonal.sum(dim=-1, keepdim=True) * design.squares + search.penalties
    metric = metric.clamp(min=torch.finfo(torch.float32).tiny)
    left = vecdot(gradient, gradient / metric)
    size = vecdot(search.at[:, :-1], (metric * search.at)[:, :-1])
    return _Model(local, gradient, metric, left, size)


def _step(design: _Design, search: _Search, model: _Model) -> tuple[_Search, Int[Tensor, " row"]]:
    """Every resample one Newton step further, and which of them could take it."""
    change = _newton_change(design, search.penalties, model)
    scores = change @ design.columns.T
    length = _step_length(search, change, scores, vecdot(model.gradient, change))
    at, scores = search.at + length * change, search.scores + length * scores
    moved = (length[:, 0] > 0).nonzero().flatten()
    return _Search(search.loss, search.penalties, at, scores), moved


def _newton_change(
    design: _Design, penalties: Float[Tensor, "resample coefficient"], model: _Model
) -> Float[Tensor, "resample coefficient"]:
    """Solve H Δ = -g by preconditioned conjugate gradients."""
    norm = model.left.sqrt()[:, None]  # right sides of length 1 stay in range
    residual = -(model.gradient / norm).float()
    goal = (model.left / model.size).clamp(TIGHTEST**2, LOOSEST**2).float()
    local, metric, penalties = model.local.single(), model.metric.float(), penalties.float()
    change = torch.zeros_like(residual)
    along = scaled = residual / metric
    size = vecdot(residual, scaled)
    for _ in range(MAX_INNER):
        going = size > goal
        if not bool(going.any()):
            break
        product = local.times(along @ design.single.T) @ design.single + penalties * along
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
    before = search.loss.value(search.scores)
    linear = vecdot(search.penalties * search.at, change)
    square = vecdot(search.penalties * change, change)
    rounding = 1e-14 * before.abs()
    step = torch.ones_like(before)
    enough = torch.zeros_like(before, dtype=torch.bool)
    for _ in range(MAX_HALVINGS):
        after = search.loss.value(search.scores + step[:, None] * change_of_scores)
        rise = after - before + step * linear + 0.5 * step**2 * square
        enough = rise <= SUFFICIENT * step * promised + rounding
        if bool(enough.all()):
            break
        step = torch.where(enough, step, step / 2)
    return torch.where(enough, step, 0.0)[:, None]
