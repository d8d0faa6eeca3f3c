"""Judges by name, as command lines spell them.

oracle                  the exact judge of the embedded world
refusal-prefix          refusals by how they begin
wildguard:PATH          and harmbench, llama-guard, beaver-dam, strongreject: a classifier's
                        checkpoint folder or hub id
endpoint:MODEL@URL      a language model behind an OpenAI-compatible endpoint
"""

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from workbench.errors import ConfigError
from workbench.evaluation.judges.beaver_dam import BeaverDamJudge
from workbench.evaluation.judges.endpoint import EndpointJudge, parse_endpoint
from workbench.evaluation.judges.harmbench import HarmBenchJudge
from workbench.evaluation.judges.language_models import (
    BATCH_SIZE,
    CausalJudgeModel,
    SequenceJudgeModel,
)
from workbench.evaluation.judges.llama_guard import LlamaGuardJudge
from workbench.evaluation.judges.oracle import OracleJudge
from workbench.evaluation.judges.protocol import Judge
from workbench.evaluation.judges.refusal_prefix import RefusalPrefixJudge
from workbench.evaluation.judges.strongreject import StrongRejectJudge
from workbench.evaluation.judges.wildguard import WildGuardJudge

_ALONE: Mapping[str, Callable[[], Judge]] = {
    "oracle": OracleJudge,
    "refusal-prefix": RefusalPrefixJudge,
}
_WITH_MODEL: Mapping[str, Callable[[str, int], Judge]] = {
    "wildguard": lambda path, n: WildGuardJudge(CausalJudgeModel.load(path, batch_size=n)),
    "harmbench": lambda path, n: HarmBenchJudge(CausalJudgeModel.load(path, batch_size=n)),
    "llama-guard": lambda path, n: LlamaGuardJudge(CausalJudgeModel.load(path, batch_size=n)),
    "strongreject": lambda path, n: StrongRejectJudge(CausalJudgeModel.load(path, batch_size=n)),
    "beaver-dam": lambda path, n: BeaverDamJudge(SequenceJudgeModel.load(path, batch_size=n)),
    "endpoint": lambda spelling, _: EndpointJudge(parse_endpoint(spelling)),
}
JUDGES: Mapping[str, str] = MappingProxyType(
    {name: name for name in _ALONE}
    | {name: f"{name}:PATH" for name in _WITH_MODEL}
    | {"endpoint": "endpoint:MODEL@URL"}
)
"""How each judge is spelt."""


def check_judge_name(spec: str) -> None:
    """Check a spelling without loading anything.

    Raises:
        ConfigError: The judge is unknown, lacks its model, or takes none.
    """
    name, colon, rest = spec.partition(":")
    if name not in JUDGES:
        close = difflib.get_close_matches(name, JUDGES, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ConfigError(f"unknown judge '{name}'{hint}; known: {', '.join(JUDGES.values())}")
    if name in _ALONE and colon:
        raise ConfigError(f"the judge {name} takes nothing behind a colon, got '{spec}'")
    if name in _WITH_MODEL and not rest:
        raise ConfigError(f"the judge {name} needs its model: {JUDGES[name]}")
    if name == "endpoint":
        parse_endpoint(rest)


def judge_named(spec: str, *, batch_size: int = BATCH_SIZE) -> Judge:
    """The judge of a spelling; models are loaded.

    Args:
        spec: The spelling.
        batch_size: Texts that a judge's own model reads at a time.

    Raises:
        ConfigError: See :func:`check_judge_name`.
        CheckpointError: The model cannot be read.
    """
    check_judge_name(spec)
    name, _, rest = spec.partition(":")
    return _ALONE[name]() if name in _ALONE else _WITH_MODEL[name](rest, batch_size)
