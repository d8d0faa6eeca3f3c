"""Whether what a method learned from stands among the test prompts.

Looked at are the prompts of

- the training split, as every seed at which a method is fitted draws it;
- the validation splits, as tuning draws them;
- both, as the training of every value module drew them, one that a method is built on too: its run
  folder says how, and for a shipped module its recipe and seed.

**Rule.** A test prompt that is equal to one of them word for word (case, punctuation and spacing
apart) is leakage: the benchmark is refused. Near overlaps (four fifths of the shorter one's word
5-grams in common, see :mod:`workbench.data.contamination`) are reported, not refused: the embedded
world's prompts are made of frames, so that unrelated requests share phrases. The leaderboard is
scored without them as well.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.backbone.protocol import Backbone
from workbench.config import from_mapping
from workbench.data.contamination import NGRAM, THRESHOLD, check_contamination
from workbench.data.example import Conversation, Example
from workbench.errors import CheckpointError, DataError
from workbench.evaluation.benchmark import PROMPT_KINDS
from workbench.evaluation.leaderboard.plan import BASELINE, REFERENCE, Entrant, Plan
from workbench.evaluation.leaderboard.work import prompts_of, shared_backbone
from workbench.evaluation.testbed_benchmark import embedded_benchmark
from workbench.evaluation.testbed_training import draw_value_data
from workbench.guidance.artifact import read_artifact_record
from workbench.guidance.methods import get_method
from workbench.guidance.registry import find_fitted, find_value_module
from workbench.runs import RUN_FILE, RunFolder
from workbench.svgt.checkpoint import read_checkpoint_record
from workbench.svgt.curriculum.recipe import DataConfig
from workbench.svgt.recipes import RECIPES, make_recipe
from workbench.testbed.splits import VALIDATION_SPLITS

_TUNING_PROMPTS = 16


@dataclass(frozen=True)
class Draw:
    """Data of the embedded world that were drawn for training, or for tuning.

    Attributes:
        seed: Of the data.
        data: How many examples of the training and validation splits; None: for tuning.
        splits: Validation splits of tuning.
        n_per_kind: Prompts of each kind and split of tuning.
    """

    seed: int
    data: DataConfig | None = None
    splits: tuple[str, ...] = ()
    n_per_kind: int = 0


@dataclass(frozen=True)
class Leakage:
    """What was found.

    Attributes:
        n_learned: Different prompts that methods learned from or were tuned on.
        n_test: Test prompts.
        exact: Test prompts that stand among them word for word.
        near: Ids of the test prompts that do nearly.
        unknown: Methods of which nobody recorded all that they learned from.
    """

    n_learned: int
    n_test: int
    exact: int
    near: tuple[str, ...]
    unknown: tuple[str, ...] = ()

    def note(self) -> str:
        """The finding in a sentence."""
        said = (
            f"{self.exact} of {self.n_test} test prompts stand word for word among the "
            f"{self.n_learned} prompts that methods learned from or were tuned on, "
            f"{len(self.near)} nearly ({THRESHOLD:.0%} of the shorter one's word {NGRAM}-grams)"
        )
        if self.unknown:
            said += f"; not checked, for nobody recorded their data: {', '.join(self.unknown)}"
        return said


def check_leakage(plan: Plan) -> Leakage:
    """Compare everything that the plan's methods learned from with its test prompts.

    Raises:
        DataError: A test prompt stands among them word for word.
    """
    draws, unknown = _draws(plan)
    learned = list(dict.fromkeys(prompt for draw in draws for prompt in _prompts(draw)))
    asked = plan.prompts
    test = [
        example
        for split in asked.splits
        for example in prompts_of(split, asked.n_per_kind, asked.seed).splits[0].examples
    ]
    report = check_contamination(
        [Example(str(number), prompt, None) for number, prompt in enumerate(learned)], test
    )
    found = Leakage(len(learned), len(test), report.n_items("exact"), report.items("near"), unknown)
    if found.exact:
        raise DataError(f"{found.note()}: measure on other splits, or with another --prompt-seed")
    return found


def _draws(plan: Plan) -> tuple[tuple[Draw, ...], tuple[str, ...]]:
    """What was drawn for the plan's methods, and the methods of which that is not known."""
    backbone = shared_backbone(plan.backbone)
    draws: dict[Draw, None] = {}
    unknown: dict[str, None] = {}
    for entrant in plan.entrants:
        if entrant.method == BASELINE:
            continue
        parts = [list(part) for part in _parts(entrant, plan, backbone)]
        draws.update(dict.fromkeys(draw for part in parts for draw in part))
        if not all(parts):
            unknown[entrant.method] = None
    return tuple(draws), tuple(unknown)


def _parts(entrant: Entrant, plan: Plan, backbone: Backbone) -> Iterator[Iterator[Draw]]:
    """What each of an entrant's parts learned from: a fit, and the value module it is built on."""
    if entrant.spec.family == REFERENCE:
        yield _of_module(entrant.source, backbone)
        return
    config = entrant.fit
    if config is not None:
        yield iter(
            (
                Draw(entrant.seed, plan.data),
                Draw(0, splits=VALIDATION_SPLITS, n_per_kind=_TUNING_PROMPTS),
            )
        )
    else:
        folder = find_fitted(entrant.loaded_as, backbone)
        config = read_artifact_record(folder).config
        yield _of_artifact(folder)
    built_on = get_method(entrant.spec.family).value_module
    if built_on is not None:
        yield _of_module(str(config[built_on]), backbone)


def _of_module(config: str, backbone: Backbone) -> Iterator[Draw]:
    """From the training of a value module, named by configuration or folder."""
    try:
        folder = find_value_module(config, backbone)
    except CheckpointError:  # an artefact holds its module, the folder may be gone
        return
    trained = recorded_training(folder, backbone)
    if trained is not None:
        yield Draw(*trained)


def recorded_training(folder: Path, backbone: Backbone) -> tuple[int, DataConfig] | None:
    """Seed and amounts of the data of a value module; None: not recorded, or files of one's own.

    The run folder of its training says so, or the recipe of a shipped module.
    """
    if (folder / RUN_FILE).is_file():
        run = RunFolder.open(folder).record
        data = run.config.get("data")
        drawn = isinstance(data, Mapping) and "sources" not in data  # files are not drawn again
        return (run.seed, _data(data, folder)) if drawn else None
    record = read_checkpoint_record(folder)
    name, seed = str(record.config.get("name")), record.metrics.get("seed")
    if name not in RECIPES or not isinstance(seed, int):
        return None
    recipe = make_recipe(name, d_model=backbone.d_model, n_layers=backbone.n_layers)
    return seed, recipe.data


def _of_artifact(folder: Path) -> Iterator[Draw]:
    about = read_artifact_record(folder).about
    seed, tuning = about.get("seed"), about.get("tuning")
    if isinstance(seed, int) and isinstance(about.get("data"), Mapping):
        yield Draw(seed, _data(about["data"], folder))
    if isinstance(seed, int) and isinstance(tuning, Mapping):
        splits = tuple(str(name) for name in tuning["splits"])
        drawn = int(tuning["prompts_a_candidate"]) + int(tuning.get("prompts_left_out", 0))
        n_per_kind = drawn // (len(PROMPT_KINDS) * len(splits))
        yield Draw(seed, splits=splits, n_per_kind=n_per_kind)


def _data(recorded: object, folder: Path) -> DataConfig:
    assert isinstance(recorded, Mapping)
    return from_mapping(DataConfig, recorded, where=f"{folder}: data")


def _prompts(draw: Draw) -> Iterator[Conversation]:
    if draw.data is None:
        benchmark = embedded_benchmark(draw.splits, n_per_kind=draw.n_per_kind, seed=draw.seed)
        for split in benchmark.splits:
            yield from (example.prompt for example in split.examples)
        return
    for part in draw_value_data(draw.data, draw.seed):
        for rows in (part.prompts, part.pairs, part.targets):
            yield from (row.prompt for row in rows)
