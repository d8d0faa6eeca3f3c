"""The few numbers that an estimator needs besides the sample."""

import math
from dataclasses import dataclass

from workbench.arguments import require_field_types
from workbench.errors import ConfigError


@dataclass(frozen=True)
class LayerOptions:
    """The settings for one layer; see :class:`DirectionOptions`."""

    shrinkage: float
    c: float | None


@dataclass(frozen=True)
class DirectionOptions:
    """Settings of the estimators; every estimator reads its own.

    Attributes:
        shrinkage: Of ``mass_mean``: share s of the scaled identity in (1 - s) Σ_w + s tr(Σ_w)/d I.
        c: Of ``logistic``: the inverse penalty C as scikit-learn has it, one for all layers or one
            each (see ``choose_c``); None for 1 / mean squared distance of a layer's states to
            their mean, which means the same at every scale.

    Raises:
        ConfigError: A number out of range.
    """

    shrinkage: float = 0.1
    c: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        require_field_types(self)
        if not 0 <= self.shrinkage <= 1:
            raise ConfigError(f"shrinkage = {self.shrinkage}: choose a share between 0 and 1")
        given = self.c if isinstance(self.c, tuple) else (self.c,)
        if not all(each is None or (math.isfinite(each) and each > 0) for each in given):
            raise ConfigError(f"c = {self.c}: choose finite numbers above 0")

    def by_layer(self, n_layers: int) -> list[LayerOptions]:
        """The options of every layer.

        Raises:
            ConfigError: ``c`` has another number of entries than there are layers.
        """
        given = self.c if isinstance(self.c, tuple) else (self.c,) * n_layers
        if len(given) != n_layers:
            raise ConfigError(f"c has {len(given)} entries for {n_layers} layers: give one each")
        return [LayerOptions(self.shrinkage, c) for c in given]
