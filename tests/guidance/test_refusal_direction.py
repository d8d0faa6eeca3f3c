"""The refusal direction against plain Hugging Face code: read, added, and taken out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from workbench.backbone import load_backbone
from workbench.data.example import Message
from workbench.data.training import LabelledPrompt, ValueData
from workbench.errors import CheckpointError, ConfigError, DataError
from workbench.guidance import GREEDY, NoGuidance, ReceiptBook, generate
from workbench.guidance.method import MAX_CANDIDATES
from workbench.guidance.methods import get_method
from workbench.guidance.protocol import Guidance, whole_pass
from workbench.guidance.refusal_direction import (
    RefusalAblation,
    RefusalAblationConfig,
    RefusalAddition,
    RefusalAdditionConfig,
)

if TYPE_CHECKING:
    from workbench.backbone import TransformerLensBackbone

PROMPTS: tuple[str, ...] = ("t1 t2 t3 t4", "t9 t8 t7 t6 t5 t4 t3")
REPLIES: tuple[str, ...] = ("t3 t5", "t2 t9")
LAYER = 1


@pytest.fixture(scope="module")
def data() -> ValueData:
    generator = torch.Generator().manual_seed(11)
    prompts = []
    for number in range(24):
        count = int(torch.randint(2, 9, (1,), generator=generator))
        words = torch.randint(100, (count,), generator=generator).tolist()
        text = " ".join(f"t{word}" for word in words)
        prompts.append(LabelledPrompt((Message("user", text),), harmful=number % 3 == 0))
    return ValueData(prompts=prompts, pairs=(), targets=())


def blocks_of(model: Any) -> list[torch.nn.Module]:  # noqa: ANN401
    """The blocks, whichever of the two architectures it is."""
    inner = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    return list(inner)


def attention_of(block: torch.nn.Module) -> torch.nn.Module:
    return next(part for name, part in block.named_children() if name in ("attn", "self_attn"))


@contextmanager
def plainly_edited(
    model: PreTrainedModel,
    edits: dict[int, Any],
    attentions: Any = None,  # noqa: ANN401
) -> Iterator[None]:
    """Forward hooks on the blocks of the plain model, (-1) before the first, and attentions."""
    handles = []
    for block in blocks_of(model) if attentions is not None else ():

        def attended(_: object, __: object, output: Any) -> Any:  # noqa: ANN401
            return (attentions(output[0]), *output[1:])

        handles.append(attention_of(block).register_forward_hook(attended))
    for layer, edit in edits.items():

        def after(_: object, __: object, output: Any, edit: Any = edit) -> Any:  # noqa: ANN401
            return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

        def before(_: object, args: tuple[Any, ...], edit: Any = edit) -> tuple[Any, ...]:  # noqa: ANN401
            return (edit(args[0]), *args[1:])

        if layer < 0:
            handles.append(blocks_of(model)[0].register_forward_pre_hook(before))
        else:
            handles.append(blocks_of(model)[layer].register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("position", [-1, -2])
def test_the_direction_is_the_difference_of_plain_means(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel, data: ValueData, position: int
) -> None:
    states: dict[bool, list[Tensor]] = {True: [], False: []}
    for row in data.prompts:
        ids = backbone.tokenizer(row.prompt[0].content, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hidden = plain(ids, output_hidden_states=True).hidden_states
        states[row.harmful].append(hidden[LAYER + 1][0, position])
    expected = torch.stack(states[True]).mean(dim=0) - torch.stack(states[False]).mean(dim=0)
    for fitted in (
        RefusalAddition.fit(backbone, data, RefusalAdditionConfig(LAYER, 1.0, position), seed=0),
        RefusalAblation.fit(backbone, data, RefusalAblationConfig(LAYER, 1.0, position), seed=0),
    ):
        torch.testing.assert_close(fitted.direction, expected, atol=2e-5, rtol=2e-5)
        assert fitted.about == {"n_harmful": 8, "n_harmless": 16}


def direction(backbone: "TransformerLensBackbone") -> Tensor:
    return 2.0 * torch.randn(backbone.d_model, generator=torch.Generator().manual_seed(4))


def addition(backbone: "TransformerLensBackbone", **options: Any) -> RefusalAddition:  # noqa: ANN401
    return RefusalAddition(RefusalAdditionConfig(LAYER, **options), direction(backbone))


def ablation(backbone: "TransformerLensBackbone", strength: float = 1.0) -> RefusalAblation:
    return RefusalAblation(RefusalAblationConfig(LAYER, strength), direction(backbone))


def logits(backbone: "TransformerLensBackbone", guidance: Guidance) -> Tensor:
    prompt, reply = backbone.encode(PROMPTS), backbone.encode_responses(REPLIES)
    with guidance.begin(backbone, prompt).during(whole_pass(prompt, reply)):
        return backbone.forward(
            torch.cat([prompt.ids, reply.ids], dim=1),
            mask=torch.cat([prompt.mask, reply.mask], dim=1),
        )


def tokens(
    backbone: "TransformerLensBackbone", guidance: Guidance, book: ReceiptBook | None = None
) -> list[tuple[int, ...]]:
    made = generate(
        backbone, PROMPTS, guidance, max_new_tokens=6, sampling=GREEDY, stop=(), receipts=book
    )
    return [one.ids for one in made]


def last_prompt(backbone: "TransformerLensBackbone", guidance: Guidance) -> Tensor:
    """Logits of the longer prompt and its reply, where no column is padding."""
    return logits(backbone, guidance)[1]


def plain_row(backbone: "TransformerLensBackbone") -> Tensor:
    prompt, reply = backbone.encode(PROMPTS[1:]), backbone.encode_responses(REPLIES[1:])
    return torch.cat([prompt.ids, reply.ids], dim=1)


def test_addition_equals_a_hook_on_the_plain_model(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel
) -> None:
    step = 0.7 * direction(backbone)
    with torch.no_grad(), plainly_edited(plain, {LAYER: lambda states: states + step}):
        expected = plain(plain_row(backbone)).logits[0]
    torch.testing.assert_close(
        last_prompt(backbone, addition(backbone, strength=0.7)), expected, atol=2e-5, rtol=2e-5
    )
    n_prompt = len(PROMPTS[1].split())

    def from_the_end_of_the_prompt(states: Tensor) -> Tensor:
        column = torch.arange(states.shape[1])[:, None]
        return states + torch.where(column >= n_prompt - 1, step, 0.0)

    with torch.no_grad(), plainly_edited(plain, {LAYER: from_the_end_of_the_prompt}):
        reply_only = plain(plain_row(backbone)).logits[0]
    found = last_prompt(backbone, addition(backbone, strength=0.7, tokens="reply"))
    torch.testing.assert_close(found, reply_only, atol=2e-5, rtol=2e-5)
    assert not torch.allclose(expected, reply_only, atol=1e-3)


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_ablation_equals_hooks_on_the_plain_model(
    backbone: "TransformerLensBackbone", plain: PreTrainedModel, share: float
) -> None:
    unit = direction(backbone) / direction(backbone).norm()

    def without(states: Tensor) -> Tensor:
        return states - share * (states @ unit)[..., None] * unit

    edits = dict.fromkeys(range(-1, backbone.n_layers), without)
    with torch.no_grad(), plainly_edited(plain, edits, without):
        expected = plain(plain_row(backbone)).logits[0]
    with torch.no_grad(), plainly_edited(plain, edits):
        blocks_only = plain(plain_row(backbone)).logits[0]
    found = last_prompt(backbone, ablation(backbone, share))
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=5e-5)
    assert not torch.allclose(blocks_only, expected, atol=1e-3)
    assert not torch.allclose(found, last_prompt(backbone, NoGuidance()), atol=1e-3)


def test_nothing_is_left_along_an_ablated_direction(backbone: "TransformerLensBackbone") -> None:
    """Measured in what the following blocks read, at every real token of every layer."""
    guidance = ablation(backbone)
    unit = guidance.direction / guidance.direction.norm()
    prompt, reply = backbone.encode(PROMPTS), backbone.encode_responses(REPLIES)
    mask = torch.cat([prompt.mask, reply.mask], dim=1)
    ids, layers = torch.cat([prompt.ids, reply.ids], dim=1), range(-1, backbone.n_layers)

    def largest_component(guidance: Guidance) -> float:
        call = whole_pass(prompt, reply)
        with guidance.begin(backbone, prompt).during(call), backbone.capture(layers) as seen:
            backbone.forward(ids, mask=mask)
            return max(
                float(((seen[layer] @ unit).abs() / seen[layer].norm(dim=-1))[mask].max())
                for layer in layers
            )

    assert largest_component(guidance) < 1e-6
    assert largest_component(guidance.scaled(0.5)) > 1e-2
    assert largest_component(NoGuidance()) > 1e-2


def test_no_mlp_reads_an_ablated_direction(
    backbone: "TransformerLensBackbone", data: ValueData
) -> None:
    """A direction planted as what an attention writes reaches no MLP, not even its own block's."""
    batch = backbone.encode(PROMPTS)
    with backbone.capture_attention([2]) as written:
        backbone.logits(batch)
    planted = written[2][1, -1]
    guidance = RefusalAblation(RefusalAblationConfig(LAYER), planted)
    unit = planted / planted.norm()
    layers = range(backbone.n_layers)

    def along(guidance: Guidance) -> list[float]:
        """Component of the stream between attention and MLP, block by block."""
        prompt, reply = backbone.encode(PROMPTS), backbone.encode_responses(REPLIES)
        ids = torch.cat([prompt.ids, reply.ids], dim=1)
        mask = torch.cat([prompt.mask, reply.mask], dim=1)
        with (
            guidance.begin(backbone, prompt).during(whole_pass(prompt, reply)),
            backbone.capture([-1, *layers]) as after,
            backbone.capture_attention(layers) as attended,
        ):
            backbone.forward(ids, mask=mask)
            return [
                float(((after[layer - 1] + attended[layer]) @ unit)[mask].abs().max())
                for layer in layers
            ]

    assert max(along(guidance)) < 1e-5
    assert along(NoGuidance())[2] > 0.9 * float(planted.norm())


def test_off_is_off_bit_for_bit(backbone: "TransformerLensBackbone") -> None:
    for guidance in (addition(backbone, strength=3.0), ablation(backbone)):
        off = guidance.scaled(0.0)
        assert torch.equal(logits(backbone, off), logits(backbone, NoGuidance()))
        assert tokens(backbone, off) == tokens(backbone, NoGuidance())
        assert not torch.equal(logits(backbone, guidance), logits(backbone, NoGuidance()))


def test_a_flipped_sign_flips_the_effect(backbone: "TransformerLensBackbone") -> None:
    """Small steps: the response of the model is then linear."""
    flat = logits(backbone, NoGuidance())
    for guidance, size in ((addition(backbone), 0.01), (ablation(backbone), 0.02)):
        up = logits(backbone, guidance.scaled(size)) - flat
        down = logits(backbone, guidance.scaled(-size)) - flat
        cosine = torch.nn.functional.cosine_similarity(up.flatten(), down.flatten(), dim=0)
        assert float(cosine) < -0.95


def test_receipts_count_all_real_tokens(backbone: "TransformerLensBackbone") -> None:
    real = int(backbone.encode(PROMPTS).mask.sum())
    book = ReceiptBook()
    tokens(backbone, addition(backbone), book)
    (receipt,) = book.receipts
    assert (receipt.layer, receipt.passes) == (LAYER, 6)
    assert (receipt.prompt_positions, receipt.response_positions) == (real, 10)
    assert receipt.measured == pytest.approx(receipt.requested, rel=1e-5)
    book = ReceiptBook()
    tokens(backbone, ablation(backbone), book)
    assert [(receipt.site, receipt.layer) for receipt in book.receipts] == [
        *(("residual", layer) for layer in (-1, 0, 1, 2, 3)),
        *(("attention", layer) for layer in (0, 1, 2, 3)),
    ]
    for receipt in book.receipts:
        assert (receipt.prompt_positions, receipt.response_positions) == (real, 10)
        assert receipt.largest_error < 1e-5


def test_padding_and_batches_change_nothing(
    backbone: "TransformerLensBackbone", data: ValueData, monkeypatch: pytest.MonkeyPatch
) -> None:
    for guidance in (
        addition(backbone),
        addition(backbone, tokens="reply"),
        ablation(backbone),
    ):
        alone = [
            generate(backbone, [p], guidance, max_new_tokens=6, sampling=GREEDY, stop=())[0].ids
            for p in PROMPTS
        ]
        assert tokens(backbone, guidance) == alone
    config = RefusalAdditionConfig(LAYER)
    whole = RefusalAddition.fit(backbone, data, config, seed=0)
    monkeypatch.setattr("workbench.guidance.fitting._READ_AT_ONCE", 1)
    single = RefusalAddition.fit(backbone, data, config, seed=0)
    torch.testing.assert_close(whole.direction, single.direction, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["refusal-addition", "refusal-ablation"])
def test_saved_and_loaded(data: ValueData, tmp_path: Path, tiny_folder: Path, name: str) -> None:
    one, other = (load_backbone(tiny_folder.parent / tiny) for tiny in ("tiny-gpt2", "tiny-llama"))
    method = get_method(name)
    config = method.grid(one)[0]
    fitted = method.fit(one, data, config, seed=0)
    fitted.save(tmp_path, one, about={"seed": 0})
    loaded: Any = method.load(tmp_path, one)
    assert loaded.config == config
    assert loaded.about == {"n_harmful": 8, "n_harmless": 16, "seed": 0}
    assert torch.equal(loaded.direction, fitted.direction)  # type: ignore[attr-defined]
    assert tokens(one, loaded) == tokens(one, fitted)
    with pytest.raises(CheckpointError, match=f"fitted on {one.name}"):
        method.load(tmp_path, other)
    wrong = {"refusal-addition": "refusal-ablation", "refusal-ablation": "refusal-addition"}[name]
    with pytest.raises(CheckpointError, match=f"holds {name}, not {wrong}"):
        get_method(wrong).load(tmp_path, one)
    file = tmp_path / "guidance.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=r"guidance\.safetensors"):
        method.load(tmp_path, one)


def test_mistakes_are_named(backbone: "TransformerLensBackbone", data: ValueData) -> None:
    harmless = ValueData([row for row in data.prompts if not row.harmful], (), ())
    with pytest.raises(DataError, match="0 harmful prompts: give at least 8"):
        RefusalAddition.fit(backbone, harmless, RefusalAdditionConfig(LAYER), seed=0)
    with pytest.raises(DataError, match="a prompt has 2 tokens only"):
        RefusalAddition.fit(backbone, data, RefusalAdditionConfig(LAYER, 1.0, -3), seed=0)
    with pytest.raises(ConfigError, match="has blocks 0 to 3"):
        RefusalAblation.fit(backbone, data, RefusalAblationConfig(4), seed=0)
    with pytest.raises(ConfigError, match="-1 is the last"):
        RefusalAdditionConfig(LAYER, 1.0, 0)
    with pytest.raises(ConfigError, match="a share between 0 and 1"):
        RefusalAblationConfig(LAYER, 1.5)
    with pytest.raises(ConfigError, match=r"lies in \[-1, 1\]"):
        ablation(backbone, 0.5).scaled(3.0)


@pytest.mark.parametrize("name", ["refusal-addition", "refusal-ablation"])
def test_the_grids_fit_the_backbone(backbone: "TransformerLensBackbone", name: str) -> None:
    candidates = get_method(name).grid(backbone)
    assert 4 <= len(candidates) <= MAX_CANDIDATES
    assert len(set(candidates)) == len(candidates)
    assert all(config.layer < backbone.n_layers for config in candidates)
