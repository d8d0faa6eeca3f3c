"""What a fitted method of guidance is, so that all of them are tuned, saved and loaded alike.

A method is fitted on a backbone from labelled examples, under a configuration that says where it
acts and how strongly; a grid of configurations is what tuning may choose from. The result is a
guidance that can be saved, loaded, and scaled: factor 1 as fitted, 0 no effect at all, -1 the
opposite.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

from workbench.backbone.protocol import Backbone, Prompt
from workbench.data.training import ValueData
from workbench.guidance.protocol import Guidance

SelfT = TypeVar("SelfT")
Aim = Literal["safety", "harm"]

MAX_CANDIDATES = 16
"""Configurations that tuning may try for a method; the same for all, so that none is favoured."""


@runtime_checkable
class FittedGuidance(Guidance, Protocol):
    """A guidance with a configuration, that can be scaled and saved."""

    @property
    def config(self) -> Any:  # noqa: ANN401 - every method has a record of its own
        """Where it acts and how strongly."""
        ...

    def scaled(self, factor: float) -> "FittedGuidance":
        """The same at ``factor`` times the configured strength."""
        ...

    def save(
        self, folder: str | Path, backbone: Backbone, *, about: Mapping[str, object] | None = None
    ) -> None:
        """Write it, see :func:`workbench.guidance.artifact.save_artifact`."""
        ...


class WithoutSlots:
    """What fitted methods without slots have in common, mixed into their frozen dataclasses.

    Attributes:
        config: Has a ``strength``.
        factor: Multiplies it: 1 as fitted, 0 no effect, -1 the opposite.
    """

    config: Any
    factor: float

    @property
    def n_slots(self) -> int:
        """None are needed."""
        return 0

    @property
    def coefficient(self) -> float:
        """The strength in use."""
        return float(self.config.strength * self.factor)

    def prepare(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """The prompts as they are."""
        return prompts

    def scaled(self: SelfT, factor: float) -> SelfT:
        """The same at ``factor`` times the configured strength."""
        return cast(SelfT, replace(cast(Any, self), factor=factor))


@runtime_checkable
class Fit(Protocol):
    """Fits a method."""

    def __call__(
        self,
        backbone: Backbone,
        data: ValueData,
        config: Any,  # noqa: ANN401
        *,
        seed: int,
    ) -> FittedGuidance:
        """Fit on a frozen backbone.

        Raises:
            ConfigError: The configuration does not fit the backbone.
            DataError: The examples do not suffice.
        """
        ...


@dataclass(frozen=True)
class Method:
    """One way to guide, as the registry and tuning know it.

    Attributes:
        name: In commands and records.
        title: For people.
        source: Where it was published.
        config_type: Its configuration record, which has a ``strength``.
        grid: Candidates for tuning on a backbone, at most ``MAX_CANDIDATES``.
        fit: From examples to a guidance.
        load: From a folder to a guidance.
        decoding_fields: Fields of the configuration that ``fit`` does not read, for they only say
            how the fitted guidance is used: candidates that differ in nothing else share a fit.
        aim: What the candidate is chosen for: ``safety``, or ``harm`` for a control that should
            do harm, see :mod:`workbench.evaluation.tuning`.
        value_module: Field of the configuration that names the value module it is built on, by
            configuration or folder; None: it is built on none.
    """

    name: str
    title: str
    source: str
    config_type: type[Any]
    grid: Callable[[Backbone], Sequence[Any]]
    fit: Fit
    load: Callable[[str | Path, Backbone], FittedGuidance]
    decoding_fields: tuple[str, ...] = ("strength",)
    aim: Aim = "safety"
    value_module: str | None = None
