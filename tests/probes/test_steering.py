"""Planted slopes come back exactly, controls are symmetric, and the bridge's doses are its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

if TYPE_CHECKING:
    from probes.contrasts import ContrastSet
    from probes.margins import ReplyPairs
    from probes.records import Record
    from workbench.backbone import TransformerLensBackbone
    from workbench.backbone.protocol import TokenBatch
    from workbench.svgt import ValueModule

FIXTURES = Path(__file__).parents[1] / "fixtures"
YES, NO, END = 0, 1, 2
WIDTH = 8
GAP = 0.5
CONTEXTS = ("here", "there")


class LinearToy:
    """One layer whose margin is linear in what is added to it.

    Prompt k is the single token ``3 + k``. The residual along axis 0 moves the logits of the two
    reply tokens apart by twice the gain of the prompt; all else cancels in a margin of replies
    ``yes yes`` and ``no no``: margin = (2/3) gain (offset + 2 * added), the offset standing at the
    prompt only. So the slope a step of length GAP along axis 0 is (4/3) gain GAP.
    """

    name, n_layers, n_heads, d_model, n_ctx, pad_id = "toy", 1, 1, WIDTH, 64, END
    device, dtype, eos_ids = torch.device("cpu"), torch.float32, (END,)
    weights_hash = tokenizer_hash = "toy"

    def __init__(self, gains: Tensor, offsets: Tensor) -> None:
        from workbench.backbone.protocol import Backbone

        self.gains, self.offsets = gains, offsets
        self.vocab_size = 3 + len(gains)
        self.edits: dict[int, Callable[[Tensor], Tensor]] = {}
        lacking = {name for name in vars(Backbone) if name[0] != "_"} - set(dir(self))
        vars(self).update(dict.fromkeys(lacking, self.not_needed))

    def not_needed(self, *args: object, **kwargs: object) -> None:
        raise AssertionError("steering needs no such thing of a backbone")

    def encode(self, prompts: Sequence[str]) -> "TokenBatch":
        from workbench.backbone.protocol import pad_rows

        return pad_rows([[3 + int(p)] for p in prompts], pad_id=END, side="left", device="cpu")

    def encode_responses(self, texts: Sequence[str]) -> "TokenBatch":
        from workbench.backbone.protocol import pad_rows

        ids = {"yes": YES, "no": NO}
        rows = [[*(ids[word] for word in text.split()), END] for text in texts]
        return pad_rows(rows, pad_id=END, side="right", device="cpu")

    def check_context(self, prompt_length: int, *, n_slots: int, n_new: int) -> None: ...

    def capture(self, layers: Sequence[int]) -> AbstractContextManager[Mapping[int, Tensor]]:
        return nullcontext({})

    @contextmanager
    def overwrite(
        self, layer: int, edit: Callable[[Tensor], Tensor], *, rows: int | None = None
    ) -> Iterator[None]:
        self.edits[layer] = edit
        try:
            yield
        finally:
            del self.edits[layer]

    def forward(
        self,
        ids: Tensor,
        *,
        mask: Tensor,
        position_ids: Tensor | None = None,
        cache: object = None,
        columns: Sequence[int] | None = None,
    ) -> Tensor:
        prompt = ids[:, 0] - 3
        residual = torch.zeros((*ids.shape, WIDTH))
        residual[:, 0, 0] = self.offsets[prompt]
        for layer in (-1, 0):
            residual = self.edits.get(layer, lambda x: x)(residual)
        moved = self.gains[prompt, None] * residual[..., 0]
        logits = torch.zeros((*ids.shape, self.vocab_size))
        logits[..., YES], logits[..., NO] = moved, -moved
        return logits if columns is None else logits[:, list(columns)]


def toy_pairs(n: int) -> "ReplyPairs":
    from probes.margins import ReplyPairs

    return ReplyPairs(
        prompts=tuple(str(i) for i in range(n)),
        safe=("yes yes",) * n,
        harmful=("no no",) * n,
        groups=tuple(f"g{i // 2}" for i in range(n)),
        contexts=tuple(CONTEXTS[i % 2] for i in range(n)),
        prompt_harm=(True,) * n,
    )


def planted_set(n: int = 40, contrast: str = "prompt") -> "ContrastSet":
    """Harmful states stand GAP further along axis 0; the other axes hold noise of mean 0."""
    from probes.contrasts import ContrastSet

    generator = torch.Generator().manual_seed(3)
    positive = torch.arange(n) % 2 == 0
    states = torch.randn((n, WIDTH), generator=generator)
    for of_class in (positive, ~positive):
        states[of_class] -= states[of_class].mean(dim=0)
    states[:, 0] = GAP * positive
    context = tuple(CONTEXTS[(i // 2) % 2] for i in range(n))
    return ContrastSet(
        states=states[None],
        layers=(0,),
        positive=positive,
        context=context,
        group=tuple(f"t{i // 2}" for i in range(n)),
        pair=torch.arange(n) ^ 1,
        site="prompt_last" if contrast == "prompt" else "response_mean",
        contrast=contrast,  # type: ignore[arg-type]
        lengths=torch.ones(n, dtype=torch.long),
    )


def only(records: "Sequence[Record]", **fields: object) -> "Record":
    found = [r for r in records if all(getattr(r, k) == v for k, v in fields.items())]
    assert len(found) == 1, [(r.metric, r.estimator, r.context_a, r.x) for r in found]
    return found[0]


# ---------------------------------------------------------------------------------- a known answer


@pytest.fixture(scope="module")
def planted() -> tuple[Tensor, Tensor, "list[Record]"]:
    """400 prompts, of which 30% have a negative gain and so are pushed the wrong way."""
    from probes.steering import ReliabilityConfig, run_reliability

    generator = torch.Generator().manual_seed(1)
    gains = 0.5 + torch.rand(400, generator=generator)
    gains[torch.randperm(400, generator=generator)[:120]] *= -1
    offsets = torch.randn(400, generator=generator)
    toy = LinearToy(gains, offsets)
    config = ReliabilityConfig(
        layers=(0,), train_contexts=("here",), coefficients=(-2.0, 0.0, 1.0, 3.0)
    )
    records = run_reliability(toy, None, [planted_set()], toy_pairs(400), config, seed=0)
    return gains.double(), offsets.double(), records


def test_slopes_and_wrong_signs_are_the_planted_ones(
    planted: tuple[Tensor, Tensor, "list[Record]"],
) -> None:
    gains, _, records = planted
    slopes = (4 / 3) * GAP * gains.numpy()
    here = np.arange(400) % 2 == 0
    for scope, rows in (("", slopes), ("trained", slopes[here]), ("unseen", slopes[~here])):
        mean = only(records, metric="steering_slope", context_a=scope, estimator="mean_difference")
        assert mean.estimate == pytest.approx(rows.mean(), abs=1e-5)
        assert mean.low < rows.mean() < mean.high
        wrong = only(
            records, metric="wrong_sign_share", context_a=scope, estimator="mean_difference"
        )
        assert wrong.estimate == (rows < 0).mean()
    overall = only(records, metric="wrong_sign_share", context_a="", estimator="mean_difference")
    assert overall.estimate == 0.3
    assert overall.n == 200
    spread = only(records, metric="slope_spread")
    assert spread.estimate == pytest.approx(slopes.std(), abs=1e-5)
    assert spread.low < slopes.std() < spread.high


def test_margins_follow_the_dose(planted: tuple[Tensor, Tensor, "list[Record]"]) -> None:
    gains, _, records = planted
    for dose in (-2.0, 0.0, 1.0, 3.0):
        change = only(records, metric="steering_margin", x=dose, estimator="mean_difference")
        assert change.estimate == pytest.approx(
            dose * (4 / 3) * GAP * float(gains.mean()), abs=1e-5
        )


@pytest.mark.parametrize("kind", ["random", "permuted"])
def test_controls_are_symmetric_around_zero(
    planted: tuple[Tensor, Tensor, "list[Record]"], kind: str
) -> None:
    """400 independent draws: three standard errors of a share of one half are 0.075."""
    _, _, records = planted
    name = f"{kind}/mean_difference"
    slope = only(records, metric="steering_slope", context_a="", estimator=name)
    wrong = only(records, metric="wrong_sign_share", context_a="", estimator=name)
    if kind == "random":
        assert slope.low < 0 < slope.high
        assert wrong.estimate == pytest.approx(0.5, abs=0.075)
        main = only(records, metric="wrong_sign_share", context_a="", estimator="mean_difference")
        assert main.null == wrong.estimate
    else:  # exchanged labels leave nothing along axis 0, the only one that moves a margin
        assert abs(slope.estimate) < 1e-6


def test_ablation_takes_away_exactly_what_lies_along_the_direction(
    planted: tuple[Tensor, Tensor, "list[Record]"],
) -> None:
    from probes.steering.vectors import fit_vector

    gains, offsets, records = planted
    along = float(fit_vector(planted_set().in_context("here"), 0, "mean_difference").unit[0])
    effect = only(records, metric="ablation_effect", estimator="mean_difference")
    removed = -(2 / 3) * along**2 * float((gains * offsets).mean())
    assert effect.estimate == pytest.approx(removed, abs=1e-5)


def test_a_zero_vector_does_nothing() -> None:
    from probes.steering.effects import plain_margins, steered_margins
    from probes.steering.slopes import least_squares_slopes

    toy, pairs = LinearToy(torch.ones(6), torch.randn(6)), toy_pairs(6)
    still = [
        steered_margins(toy, pairs, 0, torch.zeros(6, WIDTH), dose, batch_size=4)
        for dose in (-1.0, 0.5, 2.0)
    ]
    assert torch.equal(still[0], plain_margins(toy, pairs, batch_size=4))
    assert least_squares_slopes((-1.0, 0.5, 2.0), torch.stack(still)).abs().max() == 0.0
    assert not toy.edits


def test_only_positions_that_predict_the_reply_are_steered() -> None:
    """Added at the prompt's last token and the reply's, and nowhere before."""
    from probes.margins import safety_margin
    from probes.steering.effects import steered_margins
    from workbench.backbone import load_backbone

    backbone = load_backbone(FIXTURES / "tiny-llama")
    pairs = tiny_pairs()
    vectors = torch.randn((len(pairs), 64), generator=torch.Generator().manual_seed(0))
    one = pairs.rows([0])

    def add(residual: Tensor) -> Tensor:
        after = residual.clone()
        after[:, 5:] += 0.7 * vectors[0]  # the first prompt has 6 tokens
        return after

    with torch.no_grad(), backbone.overwrite(1, add):
        by_hand = safety_margin(backbone, one, None)
    steered = steered_margins(backbone, pairs, 1, vectors, 0.7, batch_size=2)
    torch.testing.assert_close(steered[:1], by_hand, atol=1e-6, rtol=0)
    assert (steered - safety_margin(backbone, pairs, None)).abs().min() > 1e-3


# ------------------------------------------------------------------------------------- the vectors


def test_one_step_is_the_difference_of_the_class_means() -> None:
    from probes.steering.vectors import fit_vector

    towards_harm = torch.eye(WIDTH)[0] * GAP
    for contrast, sign in (("prompt", 1), ("response", -1)):
        fitted = fit_vector(planted_set(contrast=contrast), 0, "mean_difference")
        torch.testing.assert_close(fitted.vector, sign * towards_harm, atol=1e-6, rtol=0)
        torch.testing.assert_close(fitted.unit, sign * torch.eye(WIDTH)[0], atol=1e-6, rtol=0)


def test_no_difference_is_not_measured() -> None:
    from probes.steering import ReliabilityConfig, run_reliability

    toy = LinearToy(torch.ones(8), torch.zeros(8))
    config = ReliabilityConfig(layers=(0,), n_resamples=50)
    alike = replace(planted_set(), states=torch.ones((1, 40, WIDTH)))
    records = run_reliability(toy, None, [alike], toy_pairs(8), config, seed=0)
    assert [r.metric for r in records] == ["steering_slope"]
    assert np.isnan(records[0].estimate)
    assert records[0].note.startswith("not measured")


# -------------------------------------------------------------------------------------- statistics


def test_slopes_agree_with_polyfit(rng: np.random.Generator) -> None:
    from probes.steering.slopes import least_squares_slopes

    doses = (-1.0, 0.3, 0.5, 4.0)
    margins = rng.normal(size=(4, 30))
    ours = least_squares_slopes(doses, torch.from_numpy(margins)).numpy()
    np.testing.assert_allclose(ours, np.polyfit(doses, margins, 1)[0], atol=1e-12)


def test_context_share_finds_what_contexts_explain(rng: np.random.Generator) -> None:
    """Two contexts 2 apart with noise 1: they explain 1 of 2 in variance."""
    from probes.steering.slopes import context_share

    contexts = ["a", "b"] * 100
    groups = [f"g{i // 2}" for i in range(200)]
    found = [
        context_share(
            np.tile([-1.0, 1.0], 100) + rng.normal(size=200),
            contexts,
            groups,
            rng=rng,
            n_resamples=200,
        )
        for _ in range(40)
    ]
    shares = [one.share for one in found if one is not None]
    assert np.mean([share.estimate for share in shares]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([share.low < 0.5 < share.high for share in shares]) >= 0.85
    assert {one.p_value for one in found if one is not None} == {1 / 2000}
    # Signs of 100 differences of mean square 2^2 + 2, at random: SS_between 3 of SS_total 400.
    null = np.mean([one.null for one in found if one is not None])
    assert null == pytest.approx(3 / 400, abs=5e-4)


def test_context_share_tests_within_the_same_requests(rng: np.random.Generator) -> None:
    """Requests that differ hide a small shift of the context from the share, not from the test."""
    from probes.steering.slopes import context_share

    shift = np.tile([0.0, 0.2], 60)
    slopes = np.repeat(10 * rng.normal(size=60), 2) + shift + 0.1 * rng.normal(size=120)
    groups = [f"g{i // 2}" for i in range(120)]
    found = context_share(slopes, ["a", "b"] * 60, groups, rng=rng, n_resamples=50)
    assert found is not None
    assert found.share.estimate < 0.001
    assert found.p_value < 0.005


def test_context_share_without_an_effect_has_uniform_p_values(rng: np.random.Generator) -> None:
    from probes.steering.slopes import context_share

    groups = [f"g{i // 3}" for i in range(36)]
    p_values = []
    for _ in range(150):
        slopes = np.repeat(rng.normal(size=12), 3) + rng.normal(size=36)
        found = context_share(slopes, ["a", "b", "c"] * 12, groups, rng=rng, n_resamples=2)
        assert found is not None
        p_values.append(found.p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_context_share_without_meaning_is_none(rng: np.random.Generator) -> None:
    from probes.steering.slopes import context_share

    groups = ["a", "b", "c"]
    options = {"rng": rng, "n_resamples": 10}
    assert context_share(rng.normal(size=3), ["x"] * 3, groups, **options) is None
    assert context_share(np.ones(3), ["x", "y", "z"], groups, **options) is None


def test_a_share_on_which_all_agree_has_wilsons_interval(rng: np.random.Generator) -> None:
    from probes.steering.slopes import clustered_share
    from workbench.statistics import wilson

    groups = ["a", "a", "b", "c", "c"]
    nobody = clustered_share(np.zeros(5, dtype=bool), groups, rng=rng, n_resamples=100)
    assert (nobody.estimate, nobody.high) == (0.0, wilson(0, 3).high)
    everybody = clustered_share(np.ones(5, dtype=bool), groups, rng=rng, n_resamples=100)
    assert (everybody.estimate, everybody.low) == (1.0, wilson(3, 3).low)


# -------------------------------------------------------------------------------------- the bridge


def tiny_pairs() -> "ReplyPairs":
    from probes.margins import ReplyPairs

    return ReplyPairs(
        prompts=("t1 t2 t3 t4 t5 t6", "t9 t8", "t20 t21 t22", "t30"),
        safe=("t7 t7 t9", "t30", "t40 t41 t42 t43", "t2"),
        harmful=("t11 t12", "t50 t51 t52 t53 t54 t55", "t60 t61", "t3"),
        groups=("a", "b", "c", "d"),
        contexts=("x", "x", "y", "y"),
        prompt_harm=(True, True, True, False),
    )


@pytest.fixture(scope="module")
def backbone() -> "TransformerLensBackbone":
    from workbench.backbone import load_backbone

    return load_backbone(FIXTURES / "tiny-llama")


@pytest.fixture
def module() -> "ValueModule":
    from workbench.svgt import SVGTConfig, ValueModule

    torch.manual_seed(5)
    return ValueModule(
        SVGTConfig(d_model=64, layer=1, d_value=32, n_bridge=3, gate="threshold", threshold=-9.0)
    ).eval()


def residual_set() -> "ContrastSet":
    few = planted_set(12)
    states = torch.randn((1, 12, 64), generator=torch.Generator().manual_seed(2))
    return replace(few, states=states, layers=(1,))


def test_the_bridge_is_measured_at_its_own_doses(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from probes.margins import safety_margin
    from probes.steering import ReliabilityConfig, run_reliability
    from workbench.guidance import SVGTBridge

    config = ReliabilityConfig(gate_scales=(0.0, 1.0, 4.0), n_resamples=50)
    guidance = SVGTBridge(module)
    records = run_reliability(backbone, guidance, [residual_set()], tiny_pairs(), config, seed=0)
    pairs = tiny_pairs().where(prompt_harm=True)
    with torch.no_grad():
        plain = safety_margin(backbone, pairs, None)
        at = {g: safety_margin(backbone, pairs, module, gate_scale=g) for g in config.gate_scales}
    doses = np.array(config.gate_scales)
    slopes = np.polyfit(doses, torch.stack(list(at.values())).double().numpy(), 1)[0]
    gate = only(records, metric="steering_slope", estimator="gate", context_a="", site="bridge")
    assert gate.estimate == pytest.approx(slopes.mean(), abs=1e-5)
    assert gate.n == 3
    presence = only(records, metric="steering_slope", estimator="presence", context_a="")
    assert presence.estimate == pytest.approx(float((at[1.0] - plain).mean()), abs=1e-5)
    assert only(records, metric="gate_closed_share").estimate == 0.0
    rest = only(records, metric="steering_margin", estimator="random/gate", x=0.0)
    same = only(records, metric="steering_margin", estimator="gate", x=0.0)
    assert rest.estimate == pytest.approx(same.estimate, abs=1e-7)  # at rest there is no noise
    vector = only(records, metric="wrong_sign_share", estimator="mean_difference", context_a="")
    difference = only(records, metric="wrong_sign_difference", estimator="gate - mean_difference")
    assert difference.estimate == pytest.approx((slopes < 0).mean() - vector.estimate)
    assert 0 < difference.p_value <= 1


def test_a_gate_that_never_opens_is_said_and_not_measured(
    backbone: "TransformerLensBackbone", module: "ValueModule"
) -> None:
    from probes.steering import ReliabilityConfig, run_reliability
    from workbench.guidance import SVGTBridge

    module.config = replace(module.config, threshold=1e9)
    records = run_reliability(
        backbone,
        SVGTBridge(module),
        [residual_set()],
        tiny_pairs(),
        ReliabilityConfig(n_resamples=50),
        seed=0,
    )
    of_bridge = [r for r in records if r.site == "bridge"]
    assert [r.metric for r in of_bridge] == ["gate_closed_share", "steering_slope"]
    assert of_bridge[0].estimate == 1.0
    assert np.isnan(of_bridge[1].estimate)
    assert "gate stays closed" in of_bridge[1].note


def test_the_same_seed_gives_the_same_records() -> None:
    from probes.records import records_frame
    from probes.steering import ReliabilityConfig, run_reliability

    toy = LinearToy(torch.linspace(-1, 1, 12), torch.zeros(12))
    config = ReliabilityConfig(layers=(0,), n_resamples=50)
    seen: list[tuple[int, int]] = []

    def run(seed: int) -> object:
        return records_frame(
            run_reliability(
                toy,
                None,
                [planted_set()],
                toy_pairs(12),
                config,
                seed=seed,
                on_progress=lambda done, total: seen.append((done, total)),
            )
        )

    assert run(1).equals(run(1))  # type: ignore[attr-defined]
    assert not run(1).equals(run(2))  # type: ignore[attr-defined]
    assert seen[0] == (1, 1)


# --------------------------------------------------------------------------------------- mistakes


def test_mistakes_are_named() -> None:
    from probes.steering import ReliabilityConfig, run_reliability
    from workbench.errors import ConfigError, DataError

    toy, pairs, train = LinearToy(torch.ones(4), torch.zeros(4)), toy_pairs(4), planted_set()

    def run(train: "ContrastSet", **options: object) -> object:
        return run_reliability(toy, None, [train], pairs, ReliabilityConfig(**options), seed=0)  # type: ignore[arg-type]

    with pytest.raises(DataError, match=r"do not hold layer 7 \(they hold 0\)"):
        run(train, layers=(7,))
    with pytest.raises(DataError, match="no layers"):
        run(replace(train, layers=(None,)), layers=(0,))
    with pytest.raises(DataError, match="context 'elsewhere'; there are here, there"):
        run(train, layers=(0,), train_contexts=("elsewhere",))
    one_class = train.rows(train.positive.nonzero().flatten())
    with pytest.raises(DataError, match="one class only"):
        run(one_class, layers=(0,))
    with pytest.raises(ConfigError, match="estimators = mean: name at least one of mean_diff"):
        run(train, layers=(0,), estimators=("mean",))
    with pytest.raises(ConfigError, match=r"coefficients = \[1.0, 1.0\]"):
        ReliabilityConfig(coefficients=(1.0, 1.0))
    with pytest.raises(ConfigError, match=r"gate_scales = \[0.0\]"):
        ReliabilityConfig(gate_scales=(0.0,))
    with pytest.raises(ConfigError, match="estimators = none"):
        ReliabilityConfig(estimators=())
