"""Collected states are the model's own, whatever the batch, the guidance or an interruption."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from workbench.data.example import Example, as_conversation
from workbench.errors import (
    ConfigError,
    ContextLengthError,
    DataError,
    NonFiniteError,
    RunError,
    TokenError,
)

if TYPE_CHECKING:
    from probes.collection import StateStore
    from workbench.backbone import TransformerLensBackbone
    from workbench.guidance import SVGTBridge
    from workbench.svgt import ValueModule

FIXTURES = Path(__file__).parents[1] / "fixtures"
LAYERS = (-1, 0, 1, 2, 3)
ALL_SITES = ("prompt_last", "response_mean", "response_tokens")
FLOAT32_NOISE = 2e-5
"""Of the largest state: other batches sum in another order, and random blocks amplify that."""
STORED = {"rtol": 1e-6, "atol": 1e-6}
"""Rounding and averaging in float32 alone, where the model itself computes in float64."""


@pytest.fixture(scope="module", params=("tiny-gpt2", "tiny-llama"))
def folder(request: pytest.FixtureRequest) -> Path:
    """A random 4-block model: learned positions, or rotary ones with grouped queries."""
    return FIXTURES / str(request.param)


@pytest.fixture(scope="module")
def backbone(folder: Path) -> "TransformerLensBackbone":
    from workbench.backbone import load_backbone

    return load_backbone(folder)


def assert_equal_but_for_rounding(ours: Tensor, theirs: Tensor) -> None:
    noise = FLOAT32_NOISE * max(float(theirs.abs().max()), 1.0)
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=noise)


@pytest.fixture(scope="module")
def gpt2() -> "TransformerLensBackbone":
    from workbench.backbone import load_backbone

    return load_backbone(FIXTURES / "tiny-gpt2")


def make_module(seed: int = 5, **changes: object) -> "ValueModule":
    from workbench.svgt import SVGTConfig, ValueModule

    torch.manual_seed(seed)
    module = ValueModule(replace(SVGTConfig(d_model=64, layer=1, d_value=32), **changes)).freeze()
    with torch.no_grad():
        module.bridge.gate_logit += 4  # a bridge that shows
    return module


def make_examples(n: int, *, responses: bool = True, seed: int = 0) -> list[Example]:
    """Random words, with prompts and responses of many lengths."""
    rng = np.random.default_rng(seed)

    def words(most: int) -> str:
        return " ".join(f"t{i}" for i in rng.integers(0, 100, size=rng.integers(1, most)))

    return [
        Example(
            id=f"e{number}",
            prompt=as_conversation(words(14)),
            response=words(9) if responses else None,
            labels={"prompt_harm": bool(number % 2), "response_harm": None},
            context="ab"[number % 2],
            group=f"g{number // 2}",
        )
        for number in range(n)
    ]


def word_ids(backbone: "TransformerLensBackbone", example: Example) -> tuple[list[int], list[int]]:
    """Ids of prompt and response, encoded alone."""
    [prompt] = backbone.encode([example.prompt]).ids.tolist()
    assert example.response is not None
    [response] = backbone.encode_responses([example.response]).ids.tolist()
    return prompt, response


@torch.no_grad()
def plain_states(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """(layer, token, width) of the embeddings and every block, by Hugging Face modules alone."""
    blocks = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    seen: list[Tensor] = []

    def keep(_: object, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(keep) for block in blocks]
    embedded = model(torch.tensor([list(ids)]), output_hidden_states=True).hidden_states[0]
    for handle in handles:
        handle.remove()
    return torch.stack([embedded, *seen])[:, 0]


def response_tokens(store: "StateStore", row: int, layer: int) -> Tensor:
    kept = store.tokens(layer)
    return kept.padded(torch.tensor([row]), "right")[0][0]


# ------------------------------------------------------------------------ the states themselves


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_unguided_states_are_those_of_the_plain_hugging_face_model(
    folder: Path, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Whatever stands beside a row in its batch."""
    from probes.collection import collect
    from workbench.backbone import load_backbone

    def check(ours: Tensor, theirs: Tensor) -> None:
        if dtype == torch.float64 and folder.name != "tiny-llama":  # whose norms stay in float32
            torch.testing.assert_close(ours, theirs.float(), **STORED)
        assert_equal_but_for_rounding(ours, theirs.float())

    backbone = load_backbone(folder, dtype=dtype)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    examples = make_examples(23)
    store = collect(backbone, examples, tmp_path / "s", sites=ALL_SITES, batch_size=7)
    assert store.layers == LAYERS
    assert store.guidance == "none"
    for row, example in enumerate(examples):
        prompt, response = word_ids(backbone, example)
        states = plain_states(plain.eval(), [*prompt, *response])
        assert store.examples["n_prompt"][row] == len(prompt)
        assert store.examples["n_response"][row] == len(response)
        for index, layer in enumerate(LAYERS):
            behind = states[index, len(prompt) :]
            check(store.states("prompt_last", layer)[row], states[index, len(prompt) - 1])
            check(store.states("response_mean", layer)[row], behind.mean(dim=0))
            check(response_tokens(store, row, layer), behind)


def test_prompts_alone_give_the_states_that_the_backbone_reads(
    backbone: "TransformerLensBackbone", tmp_path: Path
) -> None:
    from probes.collection import collect

    examples = make_examples(19, responses=False)
    store = collect(backbone, examples, tmp_path / "s", layers=(3, 0), batch_size=5)
    assert store.sites == ("prompt_last",)
    assert store.layers == (0, 3)
    assert list(store.examples["n_response"]) == [0] * 19
    batch = backbone.encode([example.prompt for example in examples])
    for layer, states in backbone.read_states(batch, (0, 3)).items():
        assert_equal_but_for_rounding(store.states("prompt_last", layer), states[:, -1])
    torch.testing.assert_close(
        store.all_layers("prompt_last"),
        torch.stack([store.states("prompt_last", layer) for layer in (0, 3)]),
    )


def test_prompt_states_do_not_depend_on_whether_a_response_is_read(
    gpt2: "TransformerLensBackbone", tmp_path: Path
) -> None:
    from probes.collection import collect

    examples = make_examples(12)
    with_ = collect(gpt2, examples, tmp_path / "with")
    without = collect(gpt2, examples, tmp_path / "without", sites=("prompt_last",))
    assert "response_mean" in with_.sites
    assert without.sites == ("prompt_last",)
    assert list(without.examples["n_response"]) == [0] * 12
    assert_equal_but_for_rounding(
        with_.all_layers("prompt_last"), without.all_layers("prompt_last")
    )


def test_every_response_token_lies_where_its_example_says(
    gpt2: "TransformerLensBackbone", tmp_path: Path
) -> None:
    from probes.collection import collect

    store = collect(gpt2, make_examples(15), tmp_path / "s", sites=ALL_SITES, batch_size=4)
    assert len(store.tokens(2).tokens) == store.examples["n_response"].sum()
    step = 2
    rows = torch.tensor(np.flatnonzero(store.examples["n_response"] > step))
    at_step = store.at_step(step, rows)
    means = torch.stack([store.tokens(layer).padded(rows, "right")[0] for layer in LAYERS])
    torch.testing.assert_close(at_step, means[:, :, step])
    too_short = torch.tensor(np.flatnonzero(store.examples["n_response"] <= step)[:1])
    with pytest.raises(RunError, match="step 2 lies outside a response"):
        store.at_step(step, too_short)


# ---------------------------------------------------------------------------- guided responses


@dataclass(frozen=True)
class _Layer:
    encoder_layer: int


class Spy:
    """Stands where decoding lets a harm observer look, and keeps the response's states."""

    def __init__(self, layer: int) -> None:
        self.config = _Layer(layer)
        self.response = torch.zeros(0)

    def score_response(
        self, prompt: Tensor, response: Tensor, prompt_mask: Tensor, response_mask: Tensor
    ) -> Tensor:
        self.response = response[:, : int(response_mask[0].sum())].clone()
        return torch.zeros(len(prompt))


def decoded_states(
    backbone: "TransformerLensBackbone",
    guidance: "SVGTBridge",
    prompts: Sequence[str],
    layer: int,
    n_new: int,
) -> tuple[list[str], Tensor]:
    """What the guided model says, and its states while it says it."""
    from workbench.guidance import Sampling, TraceRequest, generate

    spy = Spy(layer)
    said = generate(
        backbone,
        prompts,
        guidance,
        max_new_tokens=n_new,
        sampling=Sampling(temperature=3.0),
        generator=torch.Generator().manual_seed(3),
        stop=(),
        trace=TraceRequest(observer=spy),
    )
    texts = [" ".join(backbone.token_strings(reply.ids)) for reply in said]
    for text, reply in zip(texts, said, strict=True):  # read back as it was said
        assert backbone.encode_responses([text]).ids[0, :-1].tolist() == list(reply.ids)
    return texts, spy.response


GATES = ("always", "open", "closed-shifted", "closed-plain", "mixed-plain", "mixed-shifted")


def make_guidance(kind: str, backbone: "TransformerLensBackbone", prompts: object) -> "SVGTBridge":
    """A bridge whose gate is open, closed, or open in half of the rows."""
    from workbench.guidance import SVGTBridge

    gate, _, closed_rows = kind.partition("-")
    if gate == "always":
        return SVGTBridge(make_module(), refresh=None)
    module = make_module(gate="threshold")
    batch = backbone.encode(prompts)  # type: ignore[arg-type]
    with torch.no_grad():
        score = module.write_bridge(backbone.read_states(batch, [1]), batch.mask).score
    between = score.sort().values[1:3].mean()  # two rows, so that rounding decides nothing
    threshold = {"open": -1e6, "closed": 1e6, "mixed": float(between)}[gate]
    shifted = make_module(gate="threshold", threshold=threshold)
    return SVGTBridge(shifted, refresh=None, closed_rows=closed_rows or "plain")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("layer", [-1, 1, 2, 3])
def test_guided_response_states_are_those_of_guided_decoding(
    backbone: "TransformerLensBackbone", kind: str, layer: int, tmp_path: Path
) -> None:
    """Slots present, positions and closed rows as decoding has them: -1 shows the positions."""
    from probes.collection import collect

    prompts = [" ".join(f"t{3 * i + j}" for j in range(2 + i)) for i in range(5)]
    guidance = make_guidance(kind, backbone, prompts)
    texts, states = decoded_states(backbone, guidance, prompts, layer, n_new=6)
    examples = [
        Example(id=f"e{i}", prompt=as_conversation(prompt), response=text)
        for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]
    store = collect(
        backbone,
        examples,
        tmp_path / "s",
        layers=(layer,),
        sites=ALL_SITES,
        guidance=guidance,
        batch_size=3,
    )
    assert store.guidance == guidance.name
    collected = store.tokens(layer).padded(torch.arange(5), "right")[0]
    assert_equal_but_for_rounding(collected[:, : states.shape[1]], states)


def test_the_guidance_shows_above_its_layer_and_never_in_the_prompt(
    backbone: "TransformerLensBackbone", tmp_path: Path
) -> None:
    from probes.collection import collect
    from workbench.guidance import NoGuidance

    examples = make_examples(12)
    guided = collect(
        backbone, examples, tmp_path / "g", guidance=make_guidance("always", backbone, [])
    )
    plain = collect(backbone, examples, tmp_path / "p", guidance=NoGuidance())
    assert_equal_but_for_rounding(guided.all_layers("prompt_last"), plain.all_layers("prompt_last"))
    moved = (guided.states("response_mean", 3) - plain.states("response_mean", 3)).norm(dim=1)
    assert float(moved.min()) > 0.05


def test_rows_with_a_closed_gate_are_unguided_where_the_guidance_says_so(
    backbone: "TransformerLensBackbone", tmp_path: Path
) -> None:
    from probes.collection import collect

    examples = make_examples(12)
    plain = collect(backbone, examples, tmp_path / "p")
    closed = collect(
        backbone,
        examples,
        tmp_path / "c",
        guidance=make_guidance("closed-plain", backbone, [e.prompt for e in examples]),
    )
    assert_equal_but_for_rounding(
        closed.all_layers("response_mean"), plain.all_layers("response_mean")
    )


# ------------------------------------------------------------------------------- value modules


def readers(threshold: float = 0.0) -> dict[str, "ValueModule"]:
    from workbench.svgt import CorrectionConfig, EncoderConfig, TriggerConfig

    both_ways = CorrectionConfig(two_sided=True)
    windowed = TriggerConfig(kind="windowed", layers=(-1, 1))
    return {
        "prompt-path": make_module(1, gate="threshold", threshold=threshold, correction=both_ways),
        "two-layers": make_module(
            2, encoder=EncoderConfig(layer=2), trigger=windowed, correction=both_ways
        ),
    }


def test_value_modules_read_along_what_they_read_when_called_directly(
    backbone: "TransformerLensBackbone", tmp_path: Path
) -> None:
    from probes.collection import collect

    examples = make_examples(17)
    prompts = backbone.encode([example.prompt for example in examples])
    with torch.no_grad():
        score = (
            readers()["prompt-path"]
            .write_bridge(backbone.read_states(prompts, [1]), prompts.mask)
            .score
        )
    between = score.sort().values[8:10].mean()  # two rows, so that rounding decides nothing
    modules = readers(threshold=float(between))
    store = collect(backbone, examples, tmp_path / "s", layers=(0,), readers=modules, batch_size=5)
    assert len(store.sites) == 2 + 2 * 6
    assert float(store.states("open:prompt-path").sum()) == 8
    for name, module in modules.items():
        for row, example in enumerate(examples):
            prompt, response = word_ids(backbone, example)
            both = backbone.encode([example.prompt])
            whole = replace(
                both,
                ids=torch.tensor([[*prompt, *response]]),
                mask=torch.ones(1, len(prompt) + len(response), dtype=torch.bool),
            )
            states = backbone.read_states(whole, [-1, 0, 1, 2])
            on_prompt = {layer: state[:, : len(prompt)] for layer, state in states.items()}
            with torch.no_grad():
                write = module.write_bridge(on_prompt, both.mask)
                layer = module.config.encoder_layer
                z_response = module.encoder.conditional(
                    on_prompt[layer],
                    states[layer][:, len(prompt) :],
                    both.mask,
                    torch.ones(1, len(response), dtype=torch.bool),
                )
            expected = {
                "z": write.z[0],
                "delta_z": write.delta_z[0],
                "bridge": write.bridge[0].flatten(),
                "score": write.score,
                "open": write.open.float(),
                "z_response": z_response[0],
            }
            for site, value in expected.items():
                assert_equal_but_for_rounding(store.states(f"{site}:{name}")[row], value)
        assert float(store.states(f"delta_z:{name}").norm(dim=1).min()) > 0


def test_the_response_reading_is_what_the_harm_observer_scores_while_decoding(
    backbone: "TransformerLensBackbone", tmp_path: Path
) -> None:
    from probes.collection import collect
    from workbench.guidance import GREEDY, TraceRequest, generate

    module = make_module(7)
    guidance = make_guidance("always", backbone, [])
    prompts = ["t3 t5 t8", "t1", "t40 t41 t42 t43 t44"]
    said = generate(
        backbone,
        prompts,
        guidance,
        max_new_tokens=6,
        sampling=GREEDY,
        trace=TraceRequest(observer=module),
        stop=(),
    )
    for number, (prompt, reply) in enumerate(zip(prompts, said, strict=True)):
        words = backbone.token_strings(reply.ids)
        assert backbone.encode_responses([" ".join(words)]).ids[0, :-1].tolist() == [*reply.ids]
        example = Example(id=f"e{number}", prompt=as_conversation(prompt), response=" ".join(words))
        store = collect(
            backbone,
            [example],
            tmp_path / f"{number}",
            sites=ALL_SITES,
            layers=(module.config.encoder_layer,),
            readers={"m": module},
            guidance=guidance,
        )
        layer = module.config.encoder_layer
        response = response_tokens(store, 0, layer)[None]
        batch = backbone.encode([prompt])
        on_prompt = backbone.read_states(batch, [layer])[layer]
        assert reply.trace.harm_score is not None
        with torch.no_grad():
            for length in (1, len(words)):  # the states decoding saw give the scores it traced
                score = module.score_response(
                    on_prompt,
                    response[:, :length],
                    batch.mask,
                    torch.ones(1, length, dtype=torch.bool),
                )
                torch.testing.assert_close(
                    score[0], reply.trace.harm_score[length - 1], rtol=0.0, atol=1e-4
                )
            closed = module.discriminator(store.states("z_response:m"))
            whole = module.score_response(
                on_prompt, response, batch.mask, torch.ones(response.shape[:2], dtype=torch.bool)
            )
        assert_equal_but_for_rounding(closed, whole)


# --------------------------------------------------------------------------- passes and resuming


class PassCounter:
    """Counts the rows of every forward pass of a backbone."""

    def __init__(
        self, backbone: "TransformerLensBackbone", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.rows: list[int] = []
        run = backbone.run_blocks

        def counting(ids: Tensor, **options: object) -> None:
            self.rows.append(len(ids))
            run(ids, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(backbone, "run_blocks", counting)


def test_one_pass_a_row_serves_all_layers_sites_and_modules(
    gpt2: "TransformerLensBackbone", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from probes.collection import collect

    counter = PassCounter(gpt2, monkeypatch)
    collect(
        gpt2, make_examples(20), tmp_path / "s", sites=ALL_SITES, readers=readers(), batch_size=8
    )
    assert counter.rows == [8, 8, 4]


class Interrupted(Exception):  # noqa: N818 - not an error of ours
    pass


def interrupt_at(n_done: int) -> Callable[[int, int], None]:
    def on_progress(done: int, total: int) -> None:
        if done >= n_done:
            raise Interrupted

    return on_progress


def assert_same_store(one: "StateStore", other: "StateStore") -> None:
    """Bit for bit."""
    assert one.sites == other.sites
    assert one.examples.equals(other.examples)
    for site in one.sites:
        path = f"{site.replace(':', '-')}.npy"
        assert (one.path / path).read_bytes() == (other.path / path).read_bytes(), site


def test_an_interrupted_collection_goes_on_and_redoes_no_finished_chunk(
    gpt2: "TransformerLensBackbone", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from probes.collection import StateStore, collect

    examples = make_examples(50)
    options = {"sites": ALL_SITES, "readers": readers(), "batch_size": 2}
    whole = collect(gpt2, examples, tmp_path / "whole", **options)
    with pytest.raises(Interrupted):  # chunks have 8 batches, so 16 and 32 rows are done for good
        collect(gpt2, examples, tmp_path / "s", **options, on_progress=interrupt_at(44))
    with pytest.raises(RunError, match="not finished: collect again"):
        StateStore.open(tmp_path / "s")
    counter = PassCounter(gpt2, monkeypatch)
    told: list[tuple[int, int]] = []
    resumed = collect(
        gpt2, examples, tmp_path / "s", **options, on_progress=lambda *n: told.append(n)
    )
    assert sum(counter.rows) == 50 - 32
    assert told[0] == (32, 50)
    assert told[-1] == (50, 50)
    assert_same_store(resumed, whole)
    counter.rows.clear()
    assert_same_store(collect(gpt2, examples, tmp_path / "s", **options), whole)
    assert counter.rows == []  # a finished collection is given back as it is


KILLED = """
import os, signal, sys
from tests_collection import make_examples, readers
from probes.collection import collect
from workbench.backbone import load_backbone

def die(done, total):
    if done >= 20:
        os.kill(os.getpid(), signal.SIGKILL)

collect(load_backbone(sys.argv[1]), make_examples(50), sys.argv[2], readers=readers(),
        batch_size=2, on_progress=die)
"""


@pytest.mark.slow
def test_a_killed_collection_goes_on_to_the_same_bytes(
    gpt2: "TransformerLensBackbone", tmp_path: Path
) -> None:
    from probes.collection import collect

    (tmp_path / "tests_collection.py").write_text(Path(__file__).read_text())
    (tmp_path / "killed.py").write_text(KILLED)
    done = subprocess.run(
        [sys.executable, "killed.py", gpt2.name, "s"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    resumed = collect(gpt2, make_examples(50), tmp_path / "s", readers=readers(), batch_size=2)
    whole = collect(gpt2, make_examples(50), tmp_path / "whole", readers=readers(), batch_size=2)
    assert_same_store(resumed, whole)


@pytest.fixture
def begun(gpt2: "TransformerLensBackbone", tmp_path: Path) -> Path:
    """A collection that was interrupted."""
    from probes.collection import collect

    with pytest.raises(Interrupted):
        collect(
            gpt2,
            make_examples(30),
            tmp_path / "s",
            readers={"m": make_module(1)},
            batch_size=2,
            on_progress=interrupt_at(20),
        )
    return tmp_path / "s"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (lambda: {"layers": (0, 1)}, "layers was"),
        (lambda: {"examples": make_examples(30, seed=1)}, "examples_sha256 was"),
        (lambda: {"examples": make_examples(29)}, "n_examples was 30, now 29"),
        (lambda: {"sites": ("prompt_last",)}, "sites was"),
        (lambda: {"readers": {"m": make_module(2)}}, r"readers\.m\.weights was"),
        (
            lambda: {"readers": {"m": make_module(1, threshold=0.5)}},
            r"readers\.m\.config\.threshold was",
        ),
        (lambda: {"readers": {}}, r"readers\.m\.weights was"),
        (lambda: {"dtype": "float16"}, "dtype was 'float32', now 'float16'"),
        (lambda: {"guidance": refreshing_off()}, r"guidance\.name was 'none', now 'svgt:svgt'"),
    ],
)
def test_a_collection_of_something_else_is_not_mixed_in(
    gpt2: "TransformerLensBackbone",
    begun: Path,
    changes: Callable[[], dict[str, object]],
    named: str,
) -> None:
    from probes.collection import collect

    before = (begun / "store.json").read_bytes()
    options = {"readers": {"m": make_module(1)}, "examples": make_examples(30), **changes()}
    examples = options.pop("examples")
    with pytest.raises(RunError, match=f"cannot resume .*{named}"):
        collect(gpt2, examples, begun, **options)  # type: ignore[arg-type]
    assert (begun / "store.json").read_bytes() == before


def test_another_backbone_is_refused_by_name(
    gpt2: "TransformerLensBackbone", begun: Path, tmp_path: Path
) -> None:
    from probes.collection import StateStore, collect
    from workbench.backbone import load_backbone

    llama = load_backbone(FIXTURES / "tiny-llama")
    with pytest.raises(RunError, match=r"backbone\.name was '.*tiny-gpt2', now '.*tiny-llama'"):
        collect(llama, make_examples(30), begun, readers={"m": make_module(1)})
    collect(gpt2, make_examples(4), tmp_path / "done")
    assert len(StateStore.open(tmp_path / "done", gpt2)) == 4
    with pytest.raises(RunError, match=r"from .*tiny-gpt2, whose weights differ .*tiny-llama"):
        StateStore.open(tmp_path / "done", llama)


def test_one_process_at_a_time_collects_into_a_folder(
    gpt2: "TransformerLensBackbone", tmp_path: Path
) -> None:
    from probes.collection import collect

    examples = make_examples(6)
    refused = []

    def meanwhile(done: int, total: int) -> None:
        with pytest.raises(RunError, match="in use by another run"):
            collect(gpt2, examples, tmp_path / "s")
        refused.append(done)

    collect(gpt2, examples, tmp_path / "s", on_progress=meanwhile)
    assert refused == [0, 6]


def test_the_backbone_is_the_same_afterwards(
    gpt2: "TransformerLensBackbone", tmp_path: Path
) -> None:
    from probes.collection import collect

    batch = gpt2.encode(["t1 t2 t3"])
    logits = gpt2.logits(batch)
    collect(gpt2, make_examples(6), tmp_path / "s", guidance=make_guidance("always", gpt2, []))
    assert torch.equal(gpt2.logits(batch), logits)
    assert gpt2.current_weights_hash() == gpt2.weights_hash


# ---------------------------------------------------------------------------------- bad input


def refreshing() -> "SVGTBridge":
    from workbench.guidance import SVGTBridge
    from workbench.svgt import TriggerConfig

    return SVGTBridge(make_module(trigger=TriggerConfig(mode="current")), refresh=5)


class Shouting:
    """A guidance of another kind."""

    name = "shouting"
    coefficient = 1.0
    n_slots = 0

    def prepare(self, prompts: Sequence[object]) -> Sequence[object]:
        return prompts

    def begin(self, backbone: object, prompt: object) -> object:
        return None


BAD: list[tuple[str, Callable[[], dict[str, object]], type[Exception], str]] = [
    ("none", lambda: {"examples": []}, DataError, "no examples to collect"),
    (
        "id twice",
        lambda: {"examples": make_examples(3) + make_examples(1)},
        DataError,
        "two examples have the id 'e0'",
    ),
    (
        "a silent one",
        lambda: {"examples": make_examples(3) + make_silent()},
        DataError,
        r"1 of 4 examples have no response \(silent, for one\)",
    ),
    (
        "a silent one, guided",
        lambda: {"examples": make_silent(), "guidance": refreshing_off()},
        DataError,
        "1 of 1 examples have no response",
    ),
    (
        "a label",
        lambda: {"examples": [replace(make_examples(1)[0], labels={"prompt_harm": "yes"})]},
        DataError,
        "example e0 has the label prompt_harm = 'yes'",
    ),
    ("layer 4", lambda: {"layers": (0, 4)}, ConfigError, "no layer 4: .* has layers 0 to 3"),
    ("layer -2", lambda: {"layers": (-2,)}, ConfigError, "no layer -2"),
    ("no layer", lambda: {"layers": ()}, ConfigError, "at least one layer"),
    ("a site", lambda: {"sites": ("prompt_lst",)}, ConfigError, "unknown site 'prompt_lst'"),
    ("no site", lambda: {"sites": ()}, ConfigError, "nothing to collect"),
    ("batch", lambda: {"batch_size": 0}, ConfigError, "batch_size = 0"),
    (
        "dropout",
        lambda: {"readers": {"m": make_module().unfreeze().train()}},
        ConfigError,
        "the value module 'm' is in training mode",
    ),
    (
        "width",
        lambda: {"readers": {"m": make_narrow()}},
        ConfigError,
        "reads states of width 32, but .* has width 64",
    ),
    ("a name", lambda: {"readers": {"../m": make_module()}}, ConfigError, "cannot name a value"),
    ("refresh", lambda: {"guidance": refreshing()}, ConfigError, "set refresh to none"),
    ("another", lambda: {"guidance": Shouting()}, ConfigError, "'shouting' cannot be collected"),
    (
        "a word",
        lambda: {"examples": [*make_examples(2), Example("x", as_conversation("zebra"), "t1")]},
        TokenError,
        "example x: .*zebra",
    ),
    (
        "too long",
        lambda: {"examples": [Example("long", as_conversation("t1 " * 100), "t2 " * 60)]},
        ContextLengthError,
        "example long: ",
    ),
    (
        "too long with slots",
        lambda: {
            "examples": [Example("long", as_conversation("t1 " * 100), "t2 " * 23)],
            "guidance": refreshing_off(),
        },
        ContextLengthError,
        r"example long: .* \+ 5 slots",
    ),
]


def make_silent() -> list[Example]:
    return [replace(make_examples(1, responses=False)[0], id="silent")]


def refreshing_off() -> "SVGTBridge":
    return replace(refreshing(), refresh=None)


def make_narrow() -> "ValueModule":
    from workbench.svgt import SVGTConfig, ValueModule

    return ValueModule(SVGTConfig(d_model=32, layer=1, d_value=32)).freeze()


@pytest.mark.parametrize(("options", "error", "message"), [case[1:] for case in BAD])
def test_what_cannot_be_collected_is_refused_before_anything_is_written(
    gpt2: "TransformerLensBackbone",
    options: Callable[[], dict[str, object]],
    error: type[Exception],
    message: str,
    tmp_path: Path,
) -> None:
    from probes.collection import collect

    given = {"examples": make_examples(3), **options()}
    with pytest.raises(error, match=message):
        collect(gpt2, given.pop("examples"), tmp_path / "s", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "s").exists()


def test_an_untrained_prompt_only_row_is_fine_where_no_response_is_read(
    gpt2: "TransformerLensBackbone", tmp_path: Path
) -> None:
    from probes.collection import collect

    mixed = make_examples(3) + make_silent()
    assert len(collect(gpt2, mixed, tmp_path / "s", sites=("prompt_last",))) == 4


def test_a_state_that_is_not_a_number_is_refused_by_the_examples_name(tmp_path: Path) -> None:
    from probes.collection import StateStore, collect
    from workbench.backbone import load_backbone

    backbone = load_backbone(FIXTURES / "tiny-gpt2")
    embedding = next(w for name, w in backbone._weights.items() if name.endswith("wte.weight"))
    embedding.data[111] = math.nan
    examples = [*make_examples(5), Example("sick", as_conversation("t1 t111"), "t2")]
    with pytest.raises(NonFiniteError, match="example sick: "):
        collect(backbone, examples, tmp_path / "s")
    with pytest.raises(RunError, match="not finished"):
        StateStore.open(tmp_path / "s")


def test_a_state_beyond_float16_is_refused_and_others_lie_within_its_precision(
    tmp_path: Path,
) -> None:
    from probes.collection import collect
    from workbench.backbone import load_backbone

    backbone = load_backbone(FIXTURES / "tiny-gpt2")
    examples = make_examples(9)
    whole = collect(backbone, examples, tmp_path / "32", readers=readers())
    half = collect(backbone, examples, tmp_path / "16", readers=readers(), dtype="float16")
    for site in whole.sites:
        path = f"{site.replace(':', '-')}.npy"
        a, b = np.load(whole.path / path), np.load(half.path / path)
        assert b.dtype == np.float16
        np.testing.assert_allclose(b.astype(np.float32), a, rtol=2**-11, atol=1e-7)
    brief = collect(backbone, examples, tmp_path / "b16", readers=readers(), dtype="bfloat16")
    for site in whole.sites:
        ours, exact = brief.all_layers(site), whole.all_layers(site)
        assert ours.dtype == torch.float32
        assert torch.equal(ours, exact.to(torch.bfloat16).float())  # rounded once, to the nearest
        torch.testing.assert_close(ours, exact, rtol=2**-8, atol=0.0)
    embedding = next(w for name, w in backbone._weights.items() if name.endswith("wte.weight"))
    embedding.data[111] *= 1e7
    examples.append(Example("huge", as_conversation("t1 t111"), "t2"))
    with pytest.raises(NonFiniteError, match=r"example huge: .*beyond float16"):
        collect(backbone, examples, tmp_path / "17", dtype="float16")


def test_a_disk_that_is_too_small_is_met_before_the_first_pass(
    gpt2: "TransformerLensBackbone", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from probes.collection import collect, size

    @dataclass(frozen=True)
    class Usage:
        free: int

    counter = PassCounter(gpt2, monkeypatch)
    monkeypatch.setattr(size.shutil, "disk_usage", lambda _: Usage(10_000))
    told = r"need 51\.20 kB and a margin, together 67\.16 MB, in .*, where 10\.00 kB are free"
    with pytest.raises(RunError, match=rf"{told}: collect fewer .* or keep them as float16"):
        collect(gpt2, make_examples(20), tmp_path / "deep" / "s")
    assert counter.rows == []
    assert not (tmp_path / "deep").exists()
    # 20 rows x 5 layers x 64 x 4 bytes, for two sites, and the margin fit exactly
    exactly = 2 * 20 * 5 * 64 * 4 + round(0.02 * 2 * 20 * 5 * 64 * 4) + 64 * 2**20
    monkeypatch.setattr(size.shutil, "disk_usage", lambda _: Usage(exactly))
    assert len(collect(gpt2, make_examples(20), tmp_path / "deep" / "s")) == 20


# ---------------------------------------------------------------------------------- the store


@pytest.fixture
def finished(gpt2: "TransformerLensBackbone", tmp_path: Path) -> Path:
    from probes.collection import collect

    return collect(gpt2, make_examples(6), tmp_path / "s", readers={"m": make_module()}).path


def test_what_is_not_there_is_named_with_what_is(finished: Path) -> None:
    from probes.collection import StateStore

    store = StateStore.open(finished)
    with pytest.raises(RunError, match=r"the site 'z:n' was not collected .* z:m"):
        store.states("z:n")
    with pytest.raises(RunError, match=r"layer 9 was not collected .* -1, 0, 1, 2, 3"):
        store.states("prompt_last", 9)
    with pytest.raises(RunError, match="layer None was not collected"):
        store.states("prompt_last")
    with pytest.raises(RunError, match="has no layers"):
        store.states("z:m", 1)
    with pytest.raises(RunError, match="'response_tokens' was not collected"):
        store.tokens(1)
    with pytest.raises(RunError, match="no single state an example"):
        store.states("response_tokens", 1)
    assert store.all_layers("z:m").shape == (1, 6, 32)


def test_damaged_folders_are_refused(finished: Path, tmp_path: Path) -> None:
    from probes.collection import StateStore
    from workbench.runs import RunFolder

    with pytest.raises(RunError, match="no run folder"):
        StateStore.open(tmp_path / "nowhere")
    with RunFolder.create(tmp_path / "other", kind="train", config={}, seed=0):
        pass
    with pytest.raises(RunError, match="a run of kind 'train', no collected states"):
        StateStore.open(tmp_path / "other")
    path = finished / "prompt_last.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match=r"prompt_last\.npy is missing or damaged"):
        StateStore.open(finished)
    np.save(path, np.zeros((6, 5, 64)))
    with pytest.raises(RunError, match=r"holds float64 .*, float32 of shape \(6, 5, 64\) belongs"):
        StateStore.open(finished)
    path.unlink()
    with pytest.raises(RunError, match=r"prompt_last\.npy missing"):
        StateStore.open(finished)


def test_the_table_keeps_what_the_source_says(finished: Path) -> None:
    from probes.collection import StateStore

    table = StateStore.open(finished).examples
    assert list(table["id"]) == [f"e{i}" for i in range(6)]
    assert list(table["context"]) == list("ababab")
    assert list(table["group"]) == ["g0", "g0", "g1", "g1", "g2", "g2"]
    assert list(table["prompt_harm"]) == [False, True] * 3
    assert table["response_harm"].isna().all()


def test_prompts_from_a_file_go_through_any_backbone(
    backbone: "TransformerLensBackbone", tmp_path: Path
) -> None:
    from probes.collection import collect
    from workbench.data.files import read_examples

    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"prompt": "t1 t2", "prompt_harm": true, "context": "a"}\n'
        '{"prompt": [{"role": "user", "content": "t1 t2"}], "context": "b"}\n'
    )
    store = collect(backbone, read_examples(path), tmp_path / "s")
    states = store.states("prompt_last", 2)
    assert_equal_but_for_rounding(states[0], states[1])
    assert list(store.examples["group"]) == ["mine/1", "mine/2"]
