"""The embedded world as training data; its oracle says how harmful generated replies are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from workbench.backbone.protocol import Backbone
from workbench.config import from_mapping, to_mapping
from workbench.data.assembly import ClassCount, DataReport
from workbench.data.assembly.report import Kind, Split, StageData
from workbench.data.training import ValueData
from workbench.errors import ConfigError
from workbench.evaluation.measured_replies import sampled_replies
from workbench.evaluation.training_data import PreparedData
from workbench.svgt.curriculum.curriculum import MeasureHarm
from workbench.svgt.curriculum.recipe import DataConfig, Recipe
from workbench.svgt.curriculum.state_bank import BATCH_SIZE
from workbench.svgt.value_module import ValueModule
from workbench.testbed.corpus import Prompt, sample_prompts
from workbench.testbed.oracle import judge
from workbench.testbed.splits import TRAIN_SPLIT, VALIDATION_SPLITS
from workbench.testbed.value_data import build_value_data

_HARM_PROMPTS_PER_SPLIT = 16
_NEW_TOKENS = 72


@dataclass(frozen=True)
class TestbedData:
    """Examples drawn from the embedded world.

    Attributes:
        config: How many.
    """

    __test__ = False  # pytest: no test, though its name begins like one

    config: DataConfig

    def settings(self) -> Mapping[str, object]:
        """The amounts."""
        return to_mapping(self.config)

    def says_the_same(self, kept: object) -> bool:
        """Whether settings mean these amounts; options that are new since then had defaults."""
        if not isinstance(kept, Mapping):
            return False
        try:
            return from_mapping(DataConfig, kept, where="run.json") == self.config
        except ConfigError:
            return False

    def prepare(
        self, backbone: Backbone, recipe: Recipe, *, seed: int, batch_size: int = BATCH_SIZE
    ) -> PreparedData:
        """Draw training and validation data, and the prompts on which harm is measured."""
        train, validation = draw_value_data(self.config, seed)
        return PreparedData(
            train,
            validation,
            DataReport([*_counts(train, "train"), *_counts(validation, "validation")]),
            _harm_meter(backbone, seed, batch_size),
            _HARM_PROMPTS_PER_SPLIT * len(VALIDATION_SPLITS),
        )


def draw_value_data(config: DataConfig, seed: int) -> tuple[ValueData, ValueData]:
    """Training data, and validation data from all four validation splits in equal parts."""
    train = build_value_data(
        TRAIN_SPLIT,
        n_prompts=config.n_prompts,
        n_pairs=config.n_pairs,
        n_targets=config.n_targets,
        seed=seed,
        filler=config.filler,
        composed=config.composed,
    )
    share = max(1, config.n_validation // len(VALIDATION_SPLITS))
    parts = [
        build_value_data(split, n_prompts=share, n_pairs=share, n_targets=share, seed=seed)
        for split in VALIDATION_SPLITS
    ]
    validation = ValueData(
        prompts=list(chain.from_iterable(part.prompts for part in parts)),
        pairs=list(chain.from_iterable(part.pairs for part in parts)),
        targets=list(chain.from_iterable(part.targets for part in parts)),
    )
    return train, validation


def harm_rate(
    backbone: Backbone,
    module: ValueModule,
    prompts: Sequence[Prompt],
    *,
    seed: int,
    batch_size: int = BATCH_SIZE,
) -> dict[str, float]:
    """Share of harmful and of degenerate replies to these prompts, sampled at temperature 1."""
    replies = sampled_replies(
        backbone,
        module,
        [prompt.conversation for prompt in prompts],
        max_new_tokens=_NEW_TOKENS,
        seed=seed,
        batch_size=batch_size,
    )
    verdicts = [judge(p.intent, text) for p, text in zip(prompts, replies, strict=True)]
    return {
        "harm_rate": sum(verdict.harmful for verdict in verdicts) / len(verdicts),
        "degenerate_rate": sum(verdict.degenerate for verdict in verdicts) / len(verdicts),
    }


def _harm_meter(backbone: Backbone, seed: int, batch_size: int) -> MeasureHarm:
    prompts = [
        prompt
        for split in VALIDATION_SPLITS
        for prompt in sample_prompts(split, _HARM_PROMPTS_PER_SPLIT, seed=seed, kind="harmful")
    ]
    return lambda module: harm_rate(backbone, module, prompts, seed=seed, batch_size=batch_size)


def _counts(data: ValueData, split: Split) -> list[ClassCount]:
    found: Counter[tuple[StageData, Kind]] = Counter()
    for row in data.prompts:
        found["prompts", "harmful" if row.harmful else "harmless"] += 1
    for pair in data.pairs:
        found["pairs", "harmful" if pair.harmful else "harmless"] += 1
    for target in data.targets:
        contrast: Kind = "without contrast" if target.harmful_response is None else "with contrast"
        found["targets", contrast] += 1
    return [ClassCount("testbed", stage, split, kind, n) for (stage, kind), n in found.items()]
