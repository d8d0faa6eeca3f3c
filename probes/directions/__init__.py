"""Value directions: unit vectors that point from harmless to harmful states.

:func:`fit_directions` is the one way in; :data:`ESTIMATORS` lists what it can fit. One estimator a
module, each with its equation and source.
"""

from probes.directions.fit import ESTIMATORS, Estimator, fit_directions
from probes.directions.logistic import choose_c
from probes.directions.options import DirectionOptions

__all__ = ["ESTIMATORS", "DirectionOptions", "Estimator", "choose_c", "fit_directions"]
