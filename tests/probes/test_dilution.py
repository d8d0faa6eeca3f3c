"""A passage scores as the plain pass does, filler is what it claims, and decay is given back."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from probes.dilution import Filler
    from probes.dilution.filler import FillerTokens
    from probes.dilution.passage import Passage
    from probes.margins import ReplyPairs
    from probes.records import Record
    from workbench.backbone import TokenBatch, TransformerLensBackbone
    from workbench.svgt import ValueModule

FIXTURES = Path(__file__).parents[1] / "fixtures"
WIDE = 10_000


@pytest.fixture(scope="module", params=("tiny-gpt2", "tiny-llama"))
def backbone(request: pytest.FixtureRequest) -> "TransformerLensBackbone":
    from workbench.backbone import load_backbone

    return load_backbone(FIXTURES / str(request.param))


@pytest.fixture(scope="module")
def pairs() -> "ReplyPairs":
    from probes.margins import ReplyPairs

    return ReplyPairs(
        prompts=("t1 t2 t3 t4 t5 t6", "t9 t8", "t20 t21 t22", "t90 t91"),
        safe=("t7 t7 t9", "t30", "t40 t41 t42 t43", "t2"),
        harmful=("t11 t12", "t50 t51 t52 t53 t54 t55", "t60 t61", "t3 t4"),
        groups=("a", "b", "c", "d"),
        contexts=("x", "x", "y", "y"),
        prompt_harm=(True, True, True, False),
    )


@pytest.fixture(scope="module")
def module() -> "ValueModule":
    from workbench.svgt import SVGTConfig, ValueModule

    torch.manual_seed(5)
    return ValueModule(SVGTConfig(d_model=64, layer=1, d_value=32, n_bridge=3)).eval()


def filler_tokens(rows: list[list[int]], chunks: list[list[int]]) -> "FillerTokens":
    from probes.dilution.filler import FillerTokens

    return FillerTokens(torch.tensor(rows).long(), torch.tensor(chunks).long())


def nothing(n: int) -> "FillerTokens":
    return filler_tokens([[]] * n, [[]] * n)


def some(n: int, length: int) -> "FillerTokens":
    ids = torch.randint(10, 100, (n, length), generator=torch.Generator().manual_seed(4))
    return filler_tokens(ids.tolist(), [[1] * length] * n)


def passage_of(
    backbone: "TransformerLensBackbone", pairs: "ReplyPairs", filler: "FillerTokens"
) -> "Passage":
    from probes.dilution.passage import Passage

    return Passage(
        backbone.encode(pairs.prompts),
        filler,
        backbone.encode_responses(pairs.safe),
        backbone.encode_responses(pairs.harmful),
    )


def longer(filler: "FillerTokens", reply: "TokenBatch") -> "TokenBatch":
    """Filler and reply as one response."""
    from workbench.backbone import TokenBatch

    ones = torch.ones_like(filler.ids, dtype=torch.bool)
    return TokenBatch(
        torch.cat([filler.ids, reply.ids], dim=1), torch.cat([ones, reply.mask], dim=1)
    )


# ------------------------------------------------------------------------------------- the passage


@pytest.mark.parametrize("guided", [False, True])
def test_without_filler_it_is_the_safety_margin(
    backbone: "TransformerLensBackbone",
    pairs: "ReplyPairs",
    module: "ValueModule",
    guided: bool,
) -> None:
    from probes.dilution.passage import decide
    from probes.margins import safety_margin

    writer = module if guided else None
    decision = decide(backbone, passage_of(backbone, pairs, nothing(4)), writer, "full", window=1)
    with torch.no_grad():
        margin = safety_margin(backbone, pairs, writer)
    torch.testing.assert_close(decision.margin, margin, atol=2e-5, rtol=0)
    assert bool(decision.slot_attention.isnan().all())


def test_both_replies_are_scored_as_if_alone_behind_the_filler(
    backbone: "TransformerLensBackbone", pairs: "ReplyPairs", module: "ValueModule"
) -> None:
    """One pass with both replies equals the two ordinary passes with filler and one reply each."""
    from probes.dilution.passage import decide
    from workbench.svgt.slots import forward_with_slots

    filler = some(4, 7)
    passage = passage_of(backbone, pairs, filler)
    decision = decide(backbone, passage, module, "full", window=1)
    for reply, ours in ((passage.safe, decision.safe), (passage.harmful, decision.harmful)):
        with torch.no_grad(), backbone.capture_patterns([2, 3]) as patterns:
            response = longer(filler, reply)
            whole = forward_with_slots(backbone, passage.prompt, response, module)
        log_probs = whole.response_logits.log_softmax(-1)
        picked = log_probs.gather(-1, response.ids[..., None])[:, 7:, 0]
        theirs = (picked * reply.mask).sum(dim=1) / reply.mask.sum(dim=1)
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
        torch.testing.assert_close(decision.log_probs, log_probs[:, 7], atol=2e-5, rtol=0)
        last_filler, slots = 6 + 3 + 7 - 1, slice(6, 9)
        mass = torch.stack([p[:, :, last_filler, slots].sum(-1).mean(1) for p in patterns.values()])
        torch.testing.assert_close(decision.slot_attention, mass.mean(0), atol=1e-6, rtol=0)
    lengths = torch.tensor([6, 2, 3, 2])
    assert torch.equal(decision.n_keys, lengths + 3 + 7)


def test_a_window_that_holds_everything_is_no_window(
    backbone: "TransformerLensBackbone", pairs: "ReplyPairs", module: "ValueModule"
) -> None:
    from probes.dilution.passage import decide

    passage = passage_of(backbone, pairs, some(4, 9))
    full = decide(backbone, passage, module, "full", window=1)
    wide = decide(backbone, passage, module, "window", window=WIDE)
    narrow = decide(backbone, passage, module, "window", window=3)
    assert torch.equal(full.margin, wide.margin)
    assert torch.equal(narrow.n_keys, torch.tensor([6, 2, 3, 2]) + 3 + 3)
    assert float((full.margin - narrow.margin).abs().max()) > 1e-4


def test_one_chunk_in_parallel_is_the_full_reach(
    backbone: "TransformerLensBackbone", pairs: "ReplyPairs", module: "ValueModule"
) -> None:
    from probes.dilution.passage import decide

    passage = passage_of(backbone, pairs, some(4, 9))
    full = decide(backbone, passage, module, "full", window=1)
    alone = decide(backbone, passage, module, "parallel", window=1)
    assert torch.equal(full.margin, alone.margin)


def test_parallel_chunks_end_at_the_same_position_and_do_not_meet() -> None:
    """Prompt of 2, one slot, chunks of 2 and 3 tokens, a repeated request of 2, replies of 1."""
    from probes.dilution.passage import Passage, passage_positions, passage_visibility
    from workbench.backbone.protocol import pad_rows

    def reply() -> "TokenBatch":
        return pad_rows([[9]], pad_id=0, side="right", device="cpu")

    prompt = pad_rows([[5, 6]], pad_id=0, side="left", device="cpu")
    filler = filler_tokens([[1, 1, 2, 2, 2, 3, 3]], [[2, 2, 1, 1, 1, -1, -1]])
    passage = Passage(prompt, filler, reply(), reply())
    positions = passage_positions(passage, 1, "parallel")
    # prompt, slot, first chunk, second chunk, request, safe, harmful
    assert positions.tolist() == [[0, 1, 2, 4, 5, 3, 4, 5, 6, 7, 8, 8]]
    visible = passage_visibility(passage, 1, positions, "parallel", 1)[0].int()
    head, first = [1, 1, 1], [1, 1]
    assert visible[4].tolist() == [*head, *first, 0, 0, 0, 0, 0, 0, 0]
    assert visible[6].tolist() == [*head, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    assert visible[9].tolist() == [*head, *first, 1, 1, 1, 1, 1, 0, 0]
    assert visible[10].tolist() == [*head, *first, 1, 1, 1, 1, 1, 1, 0]
    assert visible[11].tolist() == [*head, *first, 1, 1, 1, 1, 1, 0, 1]


def test_a_window_looks_back_from_each_reply_alike() -> None:
    from probes.dilution.passage import Passage, passage_positions, passage_visibility
    from workbench.backbone.protocol import pad_rows

    def pad(rows: list[list[int]], side: str) -> "TokenBatch":
        return pad_rows(rows, pad_id=0, side=side, device="cpu")

    passage = Passage(
        pad([[5, 6], [7]], "left"),
        filler_tokens([[1, 1, 1], [2, 2, 2]], [[1] * 3] * 2),
        pad([[9, 9], [9, 9]], "right"),
        pad([[8], [8]], "right"),
    )
    positions = passage_positions(passage, 0, "window")
    assert positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 5], [0, 0, 1, 2, 3, 4, 5, 4]]
    visible = passage_visibility(passage, 0, positions, "window", 2).int()
    assert visible[0, 5].tolist() == [1, 1, 0, 0, 1, 1, 0, 0]
    assert visible[0, 6].tolist() == [1, 1, 0, 0, 0, 1, 1, 0]
    assert visible[0, 7].tolist() == [1, 1, 0, 0, 1, 0, 0, 1]
    assert visible[1, 5].tolist() == [0, 1, 0, 0, 1, 1, 0, 0]  # padding is never seen


def test_a_distance_beyond_the_context_names_the_remedy(
    backbone: "TransformerLensBackbone", pairs: "ReplyPairs", module: "ValueModule"
) -> None:
    """Longest row: prompt 6, 3 slots, 300 filler, reply 4."""
    from probes.dilution.passage import decide
    from workbench.errors import ContextLengthError

    passage = passage_of(backbone, pairs, some(4, 300))
    nearer = backbone.n_ctx - (6 + 3 + 4)
    with pytest.raises(ContextLengthError, match=rf"313 positions.*up to {nearer}.*n_ctx=313"):
        decide(backbone, passage, module, "full", window=1)
    chunks = torch.arange(300).expand(4, -1) // 10
    short = replace(passage, filler=replace(passage.filler, chunk=chunks))
    assert bool(decide(backbone, short, module, "parallel", window=1).margin.isfinite().all())


# -------------------------------------------------------------------------------------- the filler


@pytest.fixture(scope="module")
def llama() -> "TransformerLensBackbone":
    from workbench.backbone import load_backbone

    return load_backbone("testbed-llama", n_ctx=600)


@pytest.fixture(scope="module")
def world_pairs() -> "ReplyPairs":
    from probes.margins import embedded_pairs

    return embedded_pairs(("direct", "fiction"), n_intents=3, seed=0, harmless=True)


@pytest.fixture(scope="module")
def filler() -> "Filler":
    from probes.dilution import embedded_filler

    return embedded_filler(30, seed=0)


def test_a_dialogue_reads_like_one(
    llama: "TransformerLensBackbone", world_pairs: "ReplyPairs", filler: "Filler"
) -> None:
    """Prompt and filler together are one conversation as the chat template writes it."""
    from probes.dilution.filler import tokenise_filler

    length = 120
    tokens = tokenise_filler(
        llama, world_pairs, filler, "dialogue", length, rng=np.random.default_rng(0)
    )
    assistant = set(filler.turns)
    answers = {answer for _, answer in filler.turns}
    for row, chunk, prompt in zip(tokens.ids, tokens.chunk, world_pairs.prompts, strict=True):
        text = " ".join(llama.token_strings(row.tolist()))
        assert text.endswith(f"<user> {prompt[-1].content} <eou> <assistant>")  # type: ignore[union-attr]
        last = " ".join(llama.token_strings(row[chunk == -1].tolist()))
        assert last.split(" <eos>")[0] in answers
        turns = text.split(" <user> ")[1:-1]  # the first one may be cut
        for turn in turns:
            user, rest = turn.split(" <eou> <assistant> ")
            assert (user, rest.removesuffix(" <eos>")) in assistant
        assert chunk.unique_consecutive().tolist() == [*range(int(chunk.max()), 0, -1), -1]


def test_a_turn_is_made_of_whole_sentences_after_the_first(
    llama: "TransformerLensBackbone", world_pairs: "ReplyPairs", filler: "Filler"
) -> None:
    from probes.dilution.filler import tokenise_filler

    tokens = tokenise_filler(llama, world_pairs, filler, "turn", 64, rng=np.random.default_rng(0))
    for row, chunk in zip(tokens.ids, tokens.chunk, strict=True):
        for number in range(1, int(chunk.max())):
            words = " ".join(llama.token_strings(row[chunk == number].tolist()))
            assert words in filler.sentences
    assert len({tuple(row.tolist()) for row in tokens.ids}) > 1


def test_a_short_distance_is_the_end_of_a_long_one(
    llama: "TransformerLensBackbone", world_pairs: "ReplyPairs", filler: "Filler"
) -> None:
    from probes.dilution.filler import tokenise_filler

    long = tokenise_filler(
        llama, world_pairs, filler, "dialogue", 200, rng=np.random.default_rng(0)
    )
    short = long.last(80)
    assert torch.equal(short.ids, long.ids[:, -80:])
    assert torch.equal(short.chunk, long.chunk[:, -80:])
    assert long.last(0).ids.shape == (len(world_pairs), 0)
    repeated = (long.chunk == -1).sum(dim=1)
    assert long.shortest == int(repeated.max())
    assert int(repeated.min()) > 5


def test_filler_of_examples_takes_harmless_replies() -> None:
    from probes.dilution import filler_of_examples
    from workbench.errors import DataError
    from workbench.testbed.crossed import crossed_examples

    examples = crossed_examples(["direct"], n_per_class=4, seed=0, with_responses=True)
    found = filler_of_examples(examples)
    harmless = [e for e in examples if not e.labels["prompt_harm"]]
    assert found.sentences == tuple(e.response for e in harmless)
    assert found.turns[0] == (harmless[0].prompt[-1].content, harmless[0].response)
    unlabelled = replace(examples[0], labels={})
    with pytest.raises(DataError, match="no example with prompt_harm false has a response"):
        filler_of_examples([*(e for e in examples if e.labels["prompt_harm"]), unlabelled])


# --------------------------------------------------------------------------------------- the decay


def planted_course(
    rng: np.random.Generator, half: float, distances: tuple[int, ...], noise: float = 0.4
) -> tuple[np.ndarray, list[str]]:
    """Effects of 60 prompts in 30 groups: 2 * 2^(-T/h), times a factor of the prompt, and noise."""
    means = 2.0 * np.exp2(-np.array(distances) / half)
    strength = 1 + 0.3 * np.repeat(rng.normal(size=30), 2)
    effects = means[:, None] * strength + noise * rng.normal(size=(len(distances), 60))
    return effects, [f"g{i // 2}" for i in range(60)]


def test_half_length_covers_the_planted_one(rng: np.random.Generator) -> None:
    from probes.dilution.decay import half_length

    distances = (0, 16, 64, 256)
    found = []
    for _ in range(60):
        effects, groups = planted_course(rng, 50.0, distances)
        found.append(half_length(distances, effects, groups, rng=rng, n_resamples=200)[0])
    assert np.mean([one.estimate for one in found]) == pytest.approx(50.0, rel=0.05)
    assert np.mean([one.low < 50.0 < one.high for one in found]) >= 0.85


def test_what_is_gone_or_does_not_fade_has_a_bound_only(rng: np.random.Generator) -> None:
    from probes.dilution.decay import half_length

    distances = (0, 16, 64)
    options = {"rng": rng, "n_resamples": 200}
    effects, groups = planted_course(rng, 0.5, distances, noise=0.01)
    gone, note = half_length(distances, effects, groups, **options)
    assert np.isnan(gone.estimate)
    assert gone.high == 16.0
    assert note == "gone before 16 tokens"
    effects, groups = planted_course(rng, 1e9, distances, noise=0.01)
    lasting, note = half_length(distances, effects, groups, **options)
    assert np.isnan(lasting.estimate)
    assert lasting.low == 64.0
    assert note == "does not fade within 64 tokens"
    nothing, note = half_length(distances, rng.normal(size=(3, 60)), groups, **options)
    assert np.isnan([nothing.estimate, nothing.low, nothing.high]).all()
    assert note == "no effect beyond doubt that could fade"


# ------------------------------------------------------------------------------------ the whole run


def only(records: "list[Record]", **fields: object) -> "Record":
    found = [r for r in records if all(getattr(r, k) == v for k, v in fields.items())]
    assert len(found) == 1, [(r.metric, r.estimator, r.x) for r in found]
    return found[0]


@pytest.fixture(scope="module")
def run(
    llama: "TransformerLensBackbone", world_pairs: "ReplyPairs", filler: "Filler"
) -> "list[Record]":
    from probes.dilution import DilutionConfig, run_dilution
    from workbench.guidance.registry import load_guidance

    config = DilutionConfig(distances=(4, 70), reaches=("full", "window"), n_resamples=200)
    guidance = load_guidance("svgt", llama)
    return run_dilution(llama, guidance, world_pairs, filler, config, seed=0)  # type: ignore[arg-type]


def test_at_no_distance_the_run_is_the_bridges_own_effect(
    run: "list[Record]", llama: "TransformerLensBackbone", world_pairs: "ReplyPairs"
) -> None:
    from probes.margins import safety_margin
    from workbench.guidance.registry import load_guidance

    harmful = world_pairs.where(prompt_harm=True)
    writer = load_guidance("svgt", llama).writer  # type: ignore[attr-defined]
    with torch.no_grad():
        plain = safety_margin(llama, harmful, None)
        guided = safety_margin(llama, harmful, writer)
    for route in ("turn/full", "turn/window", "dialogue/full", "dialogue/window"):
        margin = only(run, metric="dilution_margin", estimator=f"bridge/{route}", x=0.0)
        assert margin.estimate == pytest.approx(float((guided - plain).mean()), abs=1e-5)
        assert margin.low > 0
        assert margin.n == 3
        attention = only(run, metric="dilution_attention", estimator=f"bridge/{route}", x=0.0)
        assert np.isnan(attention.estimate)
        assert "a slot itself" in attention.note


def test_control_loss_is_the_loss_of_helpful_replies(
    run: "list[Record]", llama: "TransformerLensBackbone", world_pairs: "ReplyPairs"
) -> None:
    from probes.margins import reply_log_probs
    from workbench.svgt.slots import forward_with_slots

    harmless = world_pairs.where(prompt_harm=False)
    with torch.no_grad():
        log_probs = reply_log_probs(
            llama, harmless, lambda b: forward_with_slots(llama, b.prompt, b.response, None)
        )
    loss = -float(log_probs.harmful.per_token.mean())
    at_once = only(run, metric="dilution_control_loss", estimator="none/turn/full", x=0.0)
    assert at_once.estimate == pytest.approx(loss, abs=1e-5)
    assert at_once.guidance == "none"
    later = only(run, metric="dilution_control_loss", estimator="none/turn/full", x=70.0)
    assert later.null == at_once.estimate


def test_records_say_what_was_measured(run: "list[Record]") -> None:
    attention = only(run, metric="dilution_attention", estimator="bridge/turn/full", x=70.0)
    assert 0 < attention.null < 4 / 70
    assert attention.low <= attention.estimate <= attention.high
    short = only(run, metric="dilution_kl", estimator="bridge/dialogue/full", x=4.0)
    assert np.isnan(short.estimate)
    assert "shorter than the repeated request" in short.note
    halves = [r for r in run if r.metric.startswith("dilution_half_length")]
    assert {r.metric for r in halves} == {
        "dilution_half_length_attention",
        "dilution_half_length_kl",
        "dilution_half_length_margin",
    }
    assert all(r.note or r.low <= r.estimate for r in halves)
    difference = [
        only(run, metric="dilution_margin", estimator=f"{arm}/turn/full", x=4.0).estimate
        for arm in ("bridge", "random", "bridge-random")
    ]
    assert difference[0] - difference[1] == pytest.approx(difference[2], abs=1e-6)


def test_a_closed_gate_and_missing_controls_are_said(
    llama: "TransformerLensBackbone", world_pairs: "ReplyPairs", filler: "Filler"
) -> None:
    from probes.dilution import DilutionConfig, run_dilution
    from workbench.guidance import SVGTBridge
    from workbench.guidance.registry import load_guidance

    config = DilutionConfig(distances=(4,), stretches=("turn",), reaches=("full",), n_resamples=50)
    writer = load_guidance("svgt", llama).writer  # type: ignore[attr-defined]
    harmful = world_pairs.where(prompt_harm=True)
    open_only = run_dilution(llama, SVGTBridge(writer), harmful, filler, config, seed=0)
    control = only(open_only, metric="dilution_control_loss")
    assert np.isnan(control.estimate)
    assert "harmless prompts" in control.note
    writer.config = replace(writer.config, threshold=1e9)
    records = run_dilution(llama, SVGTBridge(writer), harmful, filler, config, seed=0)
    assert [r.metric for r in records] == ["dilution_margin"]
    assert "gate stays closed" in records[0].note


def test_what_does_not_fit_is_refused_before_anything_is_measured(
    llama: "TransformerLensBackbone", world_pairs: "ReplyPairs", filler: "Filler"
) -> None:
    from probes.dilution import DilutionConfig, run_dilution
    from workbench.errors import ContextLengthError
    from workbench.guidance import SVGTBridge
    from workbench.guidance.registry import load_guidance

    guidance = load_guidance("svgt", llama)
    assert isinstance(guidance, SVGTBridge)
    told: list[int] = []
    with pytest.raises(ContextLengthError, match="distance of 590 tokens"):
        run_dilution(
            llama,
            guidance,
            world_pairs,
            filler,
            DilutionConfig(distances=(4, 590)),
            seed=0,
            on_progress=lambda done, total: told.append(done),
        )
    assert not told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distances": ()}, "different numbers of tokens"),
        ({"distances": (64, 16)}, "ascending"),
        ({"distances": (0, 16)}, "1 or more"),
        ({"stretches": ()}, "choose from turn, dialogue"),
        ({"reaches": ()}, "choose from full, window, parallel"),
        ({"window": 0}, "a whole number from 1 is needed"),
    ],
)
def test_mistakes_in_the_configuration(change: dict[str, object], message: str) -> None:
    from probes.dilution import DilutionConfig
    from workbench.errors import ConfigError

    with pytest.raises(ConfigError, match=message):
        DilutionConfig(**change)  # type: ignore[arg-type]
