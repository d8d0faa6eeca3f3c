"""Are bridge tokens attended to, and do they cause the effect?

Records of :func:`run_anchoring` have ``probe = "anchoring"`` and, by ``metric``,

=========================  ====================  ==============================================
metric                     estimator             further columns
=========================  ====================  ==============================================
``n_open``
``margin``,                an intervention       ``context_a``: one context only
``margin_effect``,                               (``margin_effect``)
``margin_lost``
``harm_rate``,             an intervention
``harm_lost``
``dose_margin``            gate, first, last     ``x``: the dose
``dose_harm_rate``         the same, refresh     ``x``: the dose
``attention_mass``         raw, weighted         ``site``: slots, sink; ``layer``, ``head``;
                                                 ``x``: the token predicted, or empty
``logit_attribution``                            ``site``: stream, slots, tokens, rest,
                                                 constant, total, difference; ``layer``, ``head``
``path_share``             necessity,            ``site``: all, heads, stream, layer, head;
                           sufficiency           ``layer``, ``head``
``path_harm_rate``,        sufficiency           ``site``: heads, stream
``path_harm_share``
``first_order_predicted``, gradient              ``x``: share of the signal taken away
``..._measured``,
``..._slope``,
``..._correlation``
``trajectory``             guided, unguided      ``site``: score, direction; ``x``: the token,
                                                 empty at the ends of the replies
=========================  ====================  ==============================================

``null`` is what the control gives: see the module of each question.
"""

from probes.anchoring.interventions import INTERVENTIONS, OFF_MANIFOLD
from probes.anchoring.live import PromptAnchoring, PromptMargins, anchor_prompt
from probes.anchoring.running import QUESTIONS, AnchoringConfig, Question, run_anchoring
from probes.anchoring.trajectories import ResidualDirection

__all__ = [
    "INTERVENTIONS",
    "OFF_MANIFOLD",
    "QUESTIONS",
    "AnchoringConfig",
    "PromptAnchoring",
    "PromptMargins",
    "Question",
    "ResidualDirection",
    "anchor_prompt",
    "run_anchoring",
]
