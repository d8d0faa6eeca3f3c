"""The decoder against plain Hugging Face generation and against full recomputation."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone
    from workbench.guidance import Guidance, TokenStep
    from workbench.svgt import BridgeWrite, ValueModule

PROMPTS = ["t1 t2 t3 t4 t5 t6", "t9 t8", "t20 t21 t22"]
N_NEW = 11


@pytest.fixture
def module() -> "ValueModule":
    """A module whose bridge follows the response."""
    return make_module()


def make_module(**changes: object) -> "ValueModule":
    from workbench.svgt import SVGTConfig, TriggerConfig, ValueModule

    torch.manual_seed(5)
    config = SVGTConfig(d_model=64, layer=1, d_value=32, trigger=TriggerConfig(mode="current"))
    module = ValueModule(replace(config, **changes)).eval()
    with torch.no_grad():
        module.bridge.gate_logit += 4  # a bridge that moves with its trigger
    return module


class Constant:
    """A writer that writes the same bridge whatever it reads; rows open as told."""

    def __init__(self, module: "ValueModule", opened: list[bool] | None = None) -> None:
        self.module, self.opened = module, opened
        self.config = module.config if opened is None else replace(module.config, gate="threshold")
        self.capture_layers = module.capture_layers
        self.writes = 0

    def write_bridge(
        self,
        prompt: Mapping[int, Tensor],
        prompt_mask: Tensor,
        current: Mapping[int, Tensor] | None = None,
        gate_scale: float = 1.0,
    ) -> "BridgeWrite":
        self.writes += 1
        write = self.module.write_bridge(prompt, prompt_mask, None, gate_scale)
        return write if self.opened is None else replace(write, open=torch.tensor(self.opened))


class LogitRecorder:
    """Wraps a backbone's ``forward`` to keep the logits of every pass."""

    def __init__(
        self, backbone: "TransformerLensBackbone", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.logits: list[Tensor] = []
        forward = backbone.forward

        def recording(*args: object, **options: object) -> Tensor:
            logits = forward(*args, **options)  # type: ignore[arg-type]
            self.logits.append(logits[:, -1])
            return logits

        monkeypatch.setattr(backbone, "forward", recording)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def decode(
    backbone: "TransformerLensBackbone", guidance: "Guidance", prompts: list[str] = PROMPTS
) -> list[tuple[int, ...]]:
    from workbench.guidance import GREEDY, generate

    results = generate(backbone, prompts, guidance, max_new_tokens=N_NEW, sampling=GREEDY, stop=())
    return [result.ids for result in results]


# ------------------------------------------------------------------ no guidance


def test_unguided_greedy_equals_hugging_face_generate(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel
) -> None:
    from workbench.guidance import NoGuidance

    ours = decode(backbone, NoGuidance())
    for prompt, ids in zip(PROMPTS, ours, strict=True):
        start = backbone.encode([prompt]).ids
        theirs = plain.generate(
            start,
            attention_mask=torch.ones_like(start),
            max_new_tokens=N_NEW,
            min_new_tokens=N_NEW,
            do_sample=False,
        )
        if 127 not in ids:
            assert list(ids) == theirs[0, start.shape[1] :].tolist()


def test_unguided_logits_equal_hugging_face_bit_for_bit_at_every_step(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.guidance import NoGuidance

    recorder = LogitRecorder(backbone, monkeypatch)
    [ids] = decode(backbone, NoGuidance(), PROMPTS[:1])
    cache, given = DynamicCache(), backbone.encode(PROMPTS[:1]).ids
    with torch.no_grad():
        for step, token in enumerate(ids):
            inputs = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
            logits = plain(given, **inputs).logits[:, -1]
            assert torch.equal(recorder.logits[step], logits), step
            given = torch.tensor([[token]])


def test_unguided_sampling_follows_the_models_distribution(
    backbone: "TransformerLensBackbone",
) -> None:
    from workbench.backbone import TokenBatch
    from workbench.guidance import NoGuidance, Sampling, generate

    one = backbone.encode(PROMPTS[:1])
    many = TokenBatch(one.ids.expand(1500, -1), one.mask.expand(1500, -1))
    results = generate(
        backbone,
        many,
        NoGuidance(),
        max_new_tokens=1,
        sampling=Sampling(temperature=3.0),
        generator=torch.Generator().manual_seed(1),
    )
    counts = torch.bincount(torch.tensor([r.ids[0] for r in results]), minlength=128) / 1500

    def distance_over_noise(temperature: float) -> float:
        """Total variation distance, over what 1500 draws from the right distribution give."""
        expected = torch.softmax(backbone.logits(one)[0, -1] / temperature, dim=-1)
        noise = (2 * expected * (1 - expected) / (1500 * torch.pi)).sqrt().sum() / 2
        return float((counts - expected).abs().sum() / 2 / noise)

    assert distance_over_noise(3.0) < 1.2
    assert distance_over_noise(2.0) > 1.5


# -------------------------------------------------------------------- guided


def recomputed(
    backbone: "TransformerLensBackbone", writer: object, prompt: str, ids: tuple[int, ...]
) -> Tensor:
    """Logits of the response tokens by one pass over everything, without a cache."""
    from workbench.backbone import TokenBatch
    from workbench.svgt.slots import forward_with_slots

    response = torch.tensor([ids])
    batch = TokenBatch(response, torch.ones_like(response, dtype=torch.bool))
    with torch.no_grad():
        result = forward_with_slots(backbone, backbone.encode([prompt]), batch, writer)  # type: ignore[arg-type]
    return result.response_logits[0]


@pytest.mark.parametrize("refresh", [None, 1, 3])
def test_cached_decoding_equals_full_recomputation_with_an_unchanged_bridge(
    backbone: "TransformerLensBackbone",
    module: "ValueModule",
    refresh: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from workbench.guidance import SVGTBridge

    writer = Constant(module)
    recorder = LogitRecorder(backbone, monkeypatch)
    [ids] = decode(backbone, SVGTBridge(writer, refresh=refresh), PROMPTS[:1])
    assert writer.writes == (1 if refresh is None else 1 + (N_NEW - 1) // refresh)
    monkeypatch.undo()
    cached = torch.cat(recorder.logits)
    assert relative(cached, recomputed(backbone, writer, PROMPTS[0], ids)) < 1e-5


def test_refreshing_with_an_unchanged_bridge_changes_no_key(
    backbone: "TransformerLensBackbone", module: "ValueModule", monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.guidance import SVGTBridge

    caches = []
    new_cache = backbone.new_cache

    def remember(capacity: int) -> object:
        caches.append(new_cache(capacity))
        return caches[-1]

    monkeypatch.setattr(backbone, "new_cache", remember)
    for refresh in (None, 1):
        decode(backbone, SVGTBridge(Constant(module), refresh=refresh))
    never, always = caches
    for layer in range(backbone.n_layers):
        a, b = never.keys(layer), always.keys(layer)
        assert a.shape == b.shape
        assert relative(a, b) < 1e-5


def test_a_bridge_that_changes_equals_recomputing_the_slots_at_that_step(
    backbone: "TransformerLensBackbone", module: "ValueModule", monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a refresh the response is what a pass with the new bridge and old response keys gives.

    The last block's response keys hold what earlier bridges did, so the only exact oracle is the
    first refresh at step 1 with one response token: there no response token came before it.
    """
    from workbench.guidance import SVGTBridge

    written = []
    write_bridge = module.write_bridge

    def keep(*args: object, **options: object) -> "BridgeWrite":
        written.append(write_bridge(*args, **options))  # type: ignore[arg-type]
        return written[-1]

    monkeypatch.setattr(module, "write_bridge", keep)
    recorder = LogitRecorder(backbone, monkeypatch)
    [ids] = decode(backbone, SVGTBridge(module, refresh=1, momentum=0.25), PROMPTS[:1])
    monkeypatch.undo()
    mixed = 0.25 * written[0].bridge + 0.75 * written[1].bridge
    assert (mixed - written[0].bridge).abs().max() > 0.1

    class Mixed(Constant):
        def write_bridge(self, *args: object, **options: object) -> "BridgeWrite":
            return replace(super().write_bridge(*args, **options), bridge=mixed)  # type: ignore[arg-type]

    expected = recomputed(backbone, Mixed(module), PROMPTS[0], ids[:2])
    assert relative(recorder.logits[1][0], expected[1]) < 1e-5


@pytest.mark.parametrize("refresh", [None, 1, 2, 5])
def test_batched_equals_single(
    backbone: "TransformerLensBackbone", module: "ValueModule", refresh: int | None
) -> None:
    from workbench.guidance import SVGTBridge

    guidance = SVGTBridge(module, refresh=refresh)
    together = decode(backbone, guidance)
    assert together == [decode(backbone, guidance, [prompt])[0] for prompt in PROMPTS]


def test_the_dynamic_bridge_follows_the_response_and_the_prompt_trigger_does_not(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from workbench.guidance import SVGTBridge
    from workbench.svgt import TriggerConfig

    assert decode(backbone, SVGTBridge(module, refresh=1)) != decode(
        backbone, SVGTBridge(module, refresh=None)
    )
    constant = make_module(trigger=TriggerConfig(mode="prompt"))
    assert decode(backbone, SVGTBridge(constant, refresh=1)) == decode(
        backbone, SVGTBridge(constant, refresh=None)
    )


def test_closed_rows_equal_no_guidance_where_they_are_not_shifted(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from workbench.guidance import NoGuidance, SVGTBridge

    writer = Constant(module, [True, False, False])
    guidance = SVGTBridge(writer, refresh=None, closed_rows="plain")
    guided, unguided = decode(backbone, guidance), decode(backbone, NoGuidance())
    assert guided[1:] == unguided[1:]
    assert guided[0] == decode(backbone, SVGTBridge(Constant(module), refresh=None))[0]


@pytest.mark.parametrize("refresh", [None, 2])
def test_shifted_closed_rows_equal_full_recomputation(
    backbone: "TransformerLensBackbone",
    module: "ValueModule",
    refresh: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from workbench.guidance import SVGTBridge

    recorder = LogitRecorder(backbone, monkeypatch)
    writer = Constant(module, [False])
    [ids] = decode(backbone, SVGTBridge(writer, refresh=refresh), PROMPTS[:1])
    monkeypatch.undo()
    cached = torch.cat(recorder.logits[1:])
    assert relative(cached, recomputed(backbone, writer, PROMPTS[0], ids)[1:]) < 1e-5


def test_gate_scale_changes_the_strength(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from workbench.guidance import SVGTBridge

    outputs = {
        scale: decode(backbone, SVGTBridge(module, gate_scale=scale, refresh=1))
        for scale in (0.0, 3.0)
    }
    assert outputs[0.0] != outputs[3.0]


def test_generation_leaves_the_model_as_it_was(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from workbench.guidance import GREEDY, SVGTBridge, TraceRequest, stream

    batch = backbone.encode(PROMPTS)
    before, weights = backbone.logits(batch), backbone.current_weights_hash()
    decode(backbone, SVGTBridge(module, refresh=1))
    dropped = stream(
        backbone,
        PROMPTS,
        SVGTBridge(module, refresh=1),
        max_new_tokens=N_NEW,
        sampling=GREEDY,
        trace=TraceRequest(observer=module, bridge=True, slot_attention="heads"),
    )
    next(dropped)
    next(dropped)
    assert torch.equal(backbone.logits(batch), before)
    points = backbone._bridge.hook_dict.values()
    assert not any(point._forward_hooks for point in points)
    del dropped

    class Failing(Constant):
        def write_bridge(self, *args: object, **options: object) -> "BridgeWrite":
            if self.writes == 2:
                raise ZeroDivisionError
            return super().write_bridge(*args, **options)  # type: ignore[arg-type]

    with pytest.raises(ZeroDivisionError):
        decode(backbone, SVGTBridge(Failing(module), refresh=2))
    assert torch.equal(backbone.logits(batch), before)
    assert backbone.current_weights_hash() == weights


# ----------------------------------------------------------- stopping and streaming


def test_rows_stop_at_their_own_stop_token(backbone: "TransformerLensBackbone") -> None:
    from workbench.guidance import GREEDY, NoGuidance, generate

    free = decode(backbone, NoGuidance())
    stop = free[0][3]
    results = generate(
        backbone, PROMPTS, NoGuidance(), max_new_tokens=N_NEW, sampling=GREEDY, stop=[stop]
    )
    for whole, result in zip(free, results, strict=True):
        if stop in whole:
            cut = whole.index(stop) + 1
            assert (result.ids, result.finish) == (whole[:cut], "stop")
        else:
            assert (result.ids, result.finish) == (whole, "length")
    assert results[0].text == backbone.decode([results[0].ids])[0]


def test_the_end_token_stops_by_default(backbone: "TransformerLensBackbone") -> None:
    from workbench.guidance import GREEDY, NoGuidance, generate

    free = decode(backbone, NoGuidance(), PROMPTS[:1])[0]
    backbone.eos_ids, kept = (free[2],), backbone.eos_ids
    try:
        [result] = generate(
            backbone, PROMPTS[:1], NoGuidance(), max_new_tokens=N_NEW, sampling=GREEDY
        )
    finally:
        backbone.eos_ids = kept
    assert result.ids == free[: free.index(free[2]) + 1]
    assert result.finish == "stop"


def test_streaming_gives_the_same_tokens_as_they_come(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from workbench.guidance import GREEDY, SVGTBridge, generate

    seen: list[TokenStep] = []
    results = generate(
        backbone,
        PROMPTS,
        SVGTBridge(module),
        max_new_tokens=N_NEW,
        sampling=GREEDY,
        stop=(),
        on_token=seen.append,
    )
    assert [step.index for step in seen] == list(range(N_NEW))
    streamed = torch.stack([step.ids for step in seen], 1).tolist()
    assert [tuple(row) for row in streamed] == [result.ids for result in results]


# ------------------------------------------------------------------------ traces


@pytest.mark.parametrize("guided", [False, True])
def test_harm_scores_are_those_of_the_response_so_far(
    backbone: "TransformerLensBackbone", module: "ValueModule", guided: bool
) -> None:
    from workbench.backbone import TokenBatch
    from workbench.guidance import GREEDY, NoGuidance, SVGTBridge, TraceRequest, generate
    from workbench.svgt.slots import forward_with_slots

    layer = module.config.encoder_layer
    guidance = SVGTBridge(module, refresh=None) if guided else NoGuidance()
    results = generate(
        backbone,
        PROMPTS,
        guidance,
        max_new_tokens=N_NEW,
        sampling=GREEDY,
        stop=(),
        trace=TraceRequest(observer=module),
    )
    assert [r.ids for r in results] == decode(backbone, guidance)
    for prompt, result in zip(PROMPTS, results, strict=True):
        given = backbone.encode([prompt])
        ids = torch.tensor([result.ids])
        response = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))
        states = forward_with_slots(
            backbone, given, response, module if guided else None, capture_layers=[layer]
        ).states[layer]
        for n in (1, 2, N_NEW):
            with torch.no_grad():
                expected = module.score_response(
                    states.prompt, states.response[:, :n], given.mask, response.mask[:, :n]
                )
            assert result.trace.harm_score is not None
            assert float(result.trace.harm_score[n - 1]) == pytest.approx(float(expected), abs=2e-5)


def test_bridge_traces_are_the_writers_own_numbers(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from workbench.guidance import GREEDY, SVGTBridge, TraceRequest, generate

    [result] = generate(
        backbone,
        PROMPTS[:1],
        SVGTBridge(module, refresh=4),
        max_new_tokens=N_NEW,
        sampling=GREEDY,
        stop=(),
        trace=TraceRequest(bridge=True),
    )
    trace = result.trace
    assert trace.trigger_score is not None
    assert trace.correction_norm is not None
    assert trace.open is not None
    batch = backbone.encode(PROMPTS[:1])
    states = backbone.read_states(batch, module.capture_layers)
    with torch.no_grad():
        write = module.write_bridge(states, batch.mask)
    assert float(trace.trigger_score[0]) == pytest.approx(float(write.score), abs=1e-5)
    assert float(trace.correction_norm[0]) == pytest.approx(float(write.delta_z.norm()), abs=1e-5)
    changes = [i for i in range(1, N_NEW) if trace.trigger_score[i] != trace.trigger_score[i - 1]]
    assert changes == [4, 8]
    assert trace.open.all()
    assert trace.harm_score is None
    assert trace.slot_attention is None


def test_attention_on_the_slots(backbone: "TransformerLensBackbone", module: "ValueModule") -> None:
    from workbench.guidance import GREEDY, NoGuidance, SVGTBridge, TraceRequest, generate

    def attention(guidance: "Guidance", kind: str) -> list[Tensor | None]:
        results = generate(
            backbone,
            PROMPTS[:2],
            guidance,
            max_new_tokens=6,
            sampling=GREEDY,
            stop=(),
            trace=TraceRequest(slot_attention=kind),  # type: ignore[arg-type]
        )
        return [result.trace.slot_attention for result in results]

    writer = Constant(module, [True, False])
    guidance = SVGTBridge(writer, refresh=2)
    opened, closed = attention(guidance, "heads")
    assert opened is not None
    assert closed is not None
    assert opened.shape == (6, 2, backbone.n_heads)
    assert (opened > 0).all()
    assert (opened < 1).all()
    assert (closed == 0).all()
    mean, _ = attention(guidance, "mean")
    assert mean is not None
    assert torch.allclose(mean, opened.mean(dim=(1, 2)))
    assert attention(NoGuidance(), "heads") == [None, None]


def test_traces_are_cut_where_a_row_stops(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from workbench.guidance import GREEDY, NoGuidance, TraceRequest, generate

    stop = decode(backbone, NoGuidance())[0][3]
    results = generate(
        backbone,
        PROMPTS,
        NoGuidance(),
        max_new_tokens=N_NEW,
        sampling=GREEDY,
        stop=[stop],
        trace=TraceRequest(observer=module),
    )
    for result in results:
        assert result.trace.harm_score is not None
        assert len(result.trace.harm_score) == len(result.ids)
        assert result.trace.harm_score.isfinite().all()


# --------------------------------------------------------------------- bad input


def test_bad_requests(backbone: "TransformerLensBackbone", module: "ValueModule") -> None:
    from workbench.errors import ConfigError, ContextLengthError, TokenError
    from workbench.guidance import GREEDY, NoGuidance, Sampling, SVGTBridge, generate

    plain, greedy = NoGuidance(), {"max_new_tokens": 5, "sampling": GREEDY}
    with pytest.raises(ConfigError, match=r"prompts = 't1' .str.: a list of texts"):
        generate(backbone, "t1", plain, **greedy)
    with pytest.raises(TokenError, match="empty"):
        generate(backbone, ["t1", " "], plain, **greedy)
    with pytest.raises(ConfigError, match="at least one token"):
        generate(backbone, ["t1"], plain, max_new_tokens=0, sampling=GREEDY)
    with pytest.raises(ConfigError, match="Generator"):
        generate(backbone, ["t1"], plain, max_new_tokens=5, sampling=Sampling())
    long = "t1 " * (backbone.n_ctx - 8)
    assert len(generate(backbone, [long], plain, **greedy)) == 1
    with pytest.raises(ContextLengthError, match=r"\+ 5 slots \+ 5 new tokens"):
        generate(backbone, [long], SVGTBridge(module), **greedy)
    assert generate(backbone, [], plain, **greedy) == []


@pytest.mark.parametrize("changes", [{"refresh": 0}, {"momentum": 1.0}, {"momentum": -0.1}])
def test_bad_guidance(module: "ValueModule", changes: dict[str, float]) -> None:
    from workbench.errors import ConfigError
    from workbench.guidance import SVGTBridge

    with pytest.raises(ConfigError, match=next(iter(changes))):
        SVGTBridge(module, **changes)  # type: ignore[arg-type]


def test_plain_closed_rows_need_a_gate_decided_once(module: "ValueModule") -> None:
    from workbench.errors import ConfigError
    from workbench.guidance import SVGTBridge

    with pytest.raises(ConfigError, match="closed_rows"):
        SVGTBridge(module, refresh=5, closed_rows="plain")
    SVGTBridge(module, refresh=None, closed_rows="plain")
