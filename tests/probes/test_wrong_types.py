"""Arguments of the wrong type are told in words by everything that a researcher calls."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def calls(planted: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[..., Any]]:  # noqa: ANN401
    """Functions with good arguments for all but those that a test gives."""
    from functools import partial

    from probes.anchoring import run_anchoring
    from probes.collection import collect
    from probes.contrasts import contrast_set
    from probes.directions import fit_directions
    from probes.instability import run_instability
    from probes.margins import embedded_pairs, safety_margin
    from probes.steering import run_reliability
    from workbench.backbone import load_backbone
    from workbench.guidance.registry import load_guidance
    from workbench.testbed.crossed import crossed_examples

    backbone = load_backbone("testbed-llama")
    bridge = load_guidance("svgt", backbone)
    examples = crossed_examples(("direct",), n_per_class=8, seed=0)
    pairs = embedded_pairs(("direct",), n_intents=1, seed=0)
    folder = tmp_path_factory.mktemp("states") / "s"
    store = collect(backbone, examples, folder, layers=[1])
    states = contrast_set(store, "prompt_last", "prompt")
    every = torch.ones(1, len(states))
    return {
        "collect": lambda **given: collect(
            **{"backbone": backbone, "examples": examples, "folder": folder, **given}
        ),
        "contrast_set": lambda **given: contrast_set(
            **{"store": store, "site": "prompt_last", "contrast": "prompt", **given}
        ),
        "fit_directions": lambda **given: fit_directions(
            **{"name": "lda", "states": states.states, "positive": states.positive,
               "weights": every, **given}
        ),
        "run_instability": lambda **given: run_instability(
            **{"sets": [states], "backbone": "x", **given}
        ),
        "run_anchoring": lambda **given: run_anchoring(
            **{"backbone": backbone, "guidance": bridge, "pairs": pairs, "seed": 0, **given}
        ),
        "run_reliability": lambda **given: run_reliability(
            **{"backbone": backbone, "guidance": None, "train": [states], "test": pairs,
               "seed": 0, **given}
        ),
        "safety_margin": partial(safety_margin, backbone, pairs, None),
        "embedded_pairs": lambda **given: embedded_pairs(
            **{"contexts": ("direct",), "n_intents": 1, "seed": 0, **given}
        ),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("collect", {"backbone": "testbed-llama"}, "a value of the type Backbone is needed"),
        ("collect", {"layers": "1"}, "layers = '1' .str.: a list of whole numbers is needed"),
        ("collect", {"layers": [77]}, "there is no layer 77"),
        ("collect", {"sites": "prompt_last"}, "a list of texts is needed"),
        ("collect", {"examples": ["hello"]}, r"examples\[0\] = 'hello'"),
        ("collect", {"batch_size": 2.5}, "batch_size = 2.5"),
        ("collect", {"dtype": "int8"}, "one of 'float32', 'float16', 'bfloat16' is needed"),
        ("collect", {"guidance": "svgt"}, "a value of the type Guidance is needed"),
        ("contrast_set", {"store": Path("s")}, "a value of the type StateStore is needed"),
        ("contrast_set", {"contrast": "moral"}, "one of 'prompt', 'response' is needed"),
        ("contrast_set", {"step": "1"}, "step = '1'"),
        ("fit_directions", {"positive": torch.ones(16)}, r"Bool\[Tensor, 'n'\] is needed"),
        ("fit_directions", {"weights": torch.ones(16)}, r"shape \(16,\)"),
        ("fit_directions", {"options": {"c": 1.0}}, "type DirectionOptions is needed"),
        ("run_instability", {"sets": "states"}, "a list of values of the type ContrastSet"),
        ("run_instability", {"seed": 1.5}, "seed = 1.5 .float.: a whole number is needed"),
        ("run_instability", {"config": {"floor": 0.1}}, "type InstabilityConfig is needed"),
        ("run_anchoring", {"seed": -1}, "seed = -1 .int.: a whole number from 0 is needed"),
        ("run_anchoring", {"guidance": "svgt"}, "type SVGTBridge is needed"),
        ("run_anchoring", {"pairs": ["x"]}, "type ReplyPairs is needed"),
        ("run_reliability", {"seed": "a"}, "seed = 'a'"),
        ("run_reliability", {"config": {}}, "type ReliabilityConfig"),
        ("safety_margin", {"n_tokens": 1.5}, "n_tokens = 1.5"),
        ("safety_margin", {"batch_size": 0}, "a whole number from 1 is needed"),
        ("safety_margin", {"closed_rows": "there"}, "closed_rows = 'there'"),
        ("embedded_pairs", {"contexts": "direct"}, "a list of texts is needed"),
        ("embedded_pairs", {"n_intents": 0}, "a whole number from 1 is needed"),
    ],
)
def test_arguments(
    calls: dict[str, Callable[..., Any]], name: str, given: dict[str, Any], message: str
) -> None:
    from workbench.errors import ConfigError

    with pytest.raises(ConfigError, match=message):
        calls[name](**given)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("instability.InstabilityConfig", {"estimators": ["lda"]}),
        ("instability.InstabilityConfig", {"estimators": "lda"}),
        ("instability.InstabilityConfig", {"contexts": "direct"}),
        ("instability.InstabilityConfig", {"cheap": (10, 1)}),
        ("instability.InstabilityConfig", {"permutations": 19.5}),
        ("instability.Effort", {"resamples": "10"}),
        ("anchoring.AnchoringConfig", {"gates": [1.0]}),
        ("anchoring.AnchoringConfig", {"questions": "effects"}),
        ("anchoring.AnchoringConfig", {"n_tokens": 0}),
        ("anchoring.AnchoringConfig", {"refreshes": (0,)}),
        ("steering.ReliabilityConfig", {"layers": "3"}),
        ("steering.ReliabilityConfig", {"coefficients": ("a", "b")}),
        ("dilution.DilutionConfig", {"distances": 4}),
        ("dilution.DilutionConfig", {"reaches": ("far",)}),
        ("directions.DirectionOptions", {"c": [1.0]}),
    ],
)
def test_configurations(name: str, given: dict[str, Any]) -> None:
    from importlib import import_module

    module, _, kind = name.partition(".")
    refuses(getattr(import_module(f"probes.{module}"), kind)(**LEAST.get(kind, {})), given)


LEAST = {"Effort": {"resamples": 10, "splits": 1}}


def refuses(good: object, change: dict[str, Any]) -> None:
    """As if ``good`` had been made with another field.

    Made so, it would be stopped by the check of types that all tests run under.
    """
    from workbench.errors import ConfigError

    [(name, value)] = change.items()
    made = object.__new__(type(good))
    for field in fields(good):  # type: ignore[arg-type]
        object.__setattr__(made, field.name, getattr(good, field.name))
    object.__setattr__(made, name, value)
    with pytest.raises(ConfigError, match=f"{name}.* is needed"):
        made.__post_init__()  # type: ignore[attr-defined]


def test_parts_of_contrasts_and_pairs(planted: Any) -> None:  # noqa: ANN401
    import numpy as np

    from probes.margins import ReplyPairs

    states = planted(n_pairs=8).draw(np.random.default_rng(0))
    refuses(states, {"states": states.states.numpy()})
    refuses(states, {"states": states.states[0]})
    refuses(states, {"layers": "ab"})
    refuses(states, {"positive": states.positive.tolist()})
    refuses(states, {"context": list(states.context)})
    refuses(states, {"contrast": "moral"})
    pairs = ReplyPairs(("a",), ("b",), ("c",), ("d",), ("e",), (True,))
    refuses(pairs, {"safe": ["b"]})
    refuses(pairs, {"prompts": (3,)})


def test_a_value_module_of_another_backbone_of_the_same_width(tmp_path: Path) -> None:
    from probes.collection import collect
    from probes.margins import embedded_pairs, safety_margin
    from workbench.backbone import load_backbone
    from workbench.errors import CheckpointError
    from workbench.guidance import GREEDY, SVGTBridge, generate
    from workbench.guidance.registry import load_module
    from workbench.testbed.crossed import crossed_examples

    module = load_module("workbench", load_backbone("testbed-llama"))
    other = load_backbone("testbed-llama-anchored")
    pairs = embedded_pairs(("direct",), n_intents=1, seed=0)
    examples = crossed_examples(("direct",), n_per_class=1, seed=0)
    bridge = SVGTBridge(module, refresh=None)
    for use in (
        lambda: safety_margin(other, pairs, module),
        lambda: collect(other, examples, tmp_path / "s", readers={"mine": module}),
        lambda: collect(other, examples, tmp_path / "s", guidance=bridge),
        lambda: generate(other, pairs.prompts, bridge, max_new_tokens=1, sampling=GREEDY),
    ):
        with pytest.raises(CheckpointError, match=r"for testbed-llama, .* testbed-llama-an"):
            use()
    assert not (tmp_path / "s").exists()
