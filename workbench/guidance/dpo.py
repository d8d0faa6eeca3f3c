"""DPO: low-rank adapters trained to prefer safe replies (arXiv 2305.18290, arXiv 2106.09685).

Pairs to learn from, all of the training split:

1. a harmful prompt with its safe reply (better) and its harmful one (worse); targets without a
   harmful reply are left out and counted;
2. as an option, against over-refusal: a harmless pair's prompt and reply (better) with a refusal
   that answers some harmful prompt (worse). Without them nothing in the pairs says that refusing
   can be wrong.

Adapters stand on all linear maps of the blocks, as QLoRA found necessary to match full fine-tuning
(arXiv 2305.14314); embeddings and readout stay as they are. While a pass runs, the weights are
W + factor * strength * (alpha / rank) B A; at 0 nothing is touched, at -1 the change is subtracted.
Unlike the other rivals it trains the backbone itself, and acts on the reading of the prompt too.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from workbench.backbone import load_plain
from workbench.backbone.protocol import Backbone, TokenBatch
from workbench.data.example import Conversation
from workbench.data.training import ValueData
from workbench.errors import CheckpointError, ConfigError, DataError
from workbench.files import write_tensors
from workbench.guidance.adapting import AdapterSession, LowRank
from workbench.guidance.artifact import load_artifact, read_config, save_artifact, take_tensors
from workbench.guidance.method import Method, WithoutSlots
from workbench.guidance.protocol import GuidanceSession

if TYPE_CHECKING:
    from peft import LoraConfig

NAME = "dpo"


@dataclass(frozen=True)
class DPOSettings:
    """How adapters are trained and how strongly they act.

    Attributes:
        strength: Factor on the trained change of the weights.
        beta: How much the log-ratio to the untouched model counts; small lets it move further.
        rank: Rank r of every change.
        alpha: The change is alpha / r times B A.
        learning_rate: Of AdamW, after a warm-up, falling to 0.
        epochs: Passes over the pairs.
        batch_size: Pairs a step.
        benign_ratio: Pairs against over-refusal, as a share of those of targets; 0 for none.

    Raises:
        ConfigError: A value out of range.
    """

    strength: float = 1.0
    beta: float = 0.1
    rank: int = 8
    alpha: float = 16.0
    learning_rate: float = 1e-3
    epochs: int = 1
    batch_size: int = 16
    benign_ratio: float = 1.0

    def __post_init__(self) -> None:
        for name in ("beta", "alpha", "learning_rate"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise ConfigError(f"{name} = {value}: give a number above 0")
        for name in ("rank", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: give at least 1")
        if not (isfinite(self.benign_ratio) and self.benign_ratio >= 0):
            raise ConfigError(f"benign_ratio = {self.benign_ratio}: give 0 or more")
        if not isfinite(self.strength):
            raise ConfigError(f"strength = {self.strength}: give a finite number")


@dataclass(frozen=True)
class Preference:
    """A prompt with the better and the worse of two replies."""

    prompt: Conversation
    chosen: str
    rejected: str


def draw_preferences(
    data: ValueData, *, benign_ratio: float, seed: int
) -> tuple[list[Preference], dict[str, int]]:
    """The pairs to learn from, and how many there are of each sort.

    Args:
        data: The training split.
        benign_ratio: Pairs against over-refusal for each target that is used, as far as there are
            harmless pairs.
        seed: Decides which harmless pairs, and which refusal goes with each.

    Raises:
        DataError: No target has a harmful reply.
    """
    pairs = [
        Preference(target.prompt, target.safe_response, target.harmful_response)
        for target in data.targets
        if target.harmful_response is not None
    ]
    if not pairs:
        raise DataError(
            "no target has a harmful reply beside its safe one, and preferences need both: take "
            "data that hold them"
        )
    rng = np.random.default_rng([seed, *NAME.encode()])
    harmless = [pair for pair in data.pairs if not pair.harmful]
    count = min(round(benign_ratio * len(pairs)), len(harmless))
    drawn = rng.permutation(len(harmless))[:count]
    refusals = rng.integers(len(pairs), size=count)
    benign = [
        Preference(harmless[i].prompt, harmless[i].response, pairs[j].chosen)
        for i, j in zip(drawn, refusals, strict=True)
    ]
    counts = {
        "preferences": len(pairs),
        "left_out": len(data.targets) - len(pairs),
        "benign_preferences": len(benign),
    }
    return pairs + benign, counts


def lora_config(backbone: Backbone, settings: DPOSettings) -> "LoraConfig":
    """The adapters as peft describes them: on every linear map of the blocks.

    Raises:
        ConfigError: peft is not installed.
    """
    maps = backbone.linear_maps
    config: LoraConfig = _optional("peft").LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=list(maps),
        fan_in_fan_out=any(linear.transposed for linear in maps.values()),
        task_type="CAUSAL_LM",
    )
    return config


@dataclass(frozen=True, eq=False)
class DPO(WithoutSlots):
    """Trained adapters as a guidance.

    Attributes:
        config: How they were trained, and their strength.
        adapters: Factors by the name of the linear map.
        factor: 1 as trained, 0 no effect at all, -1 the opposite change.
        training: Counts of pairs, steps, and the mean loss; empty when loaded.
    """

    config: DPOSettings
    adapters: Mapping[str, LowRank]
    factor: float = 1.0
    training: Mapping[str, int | float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``dpo``."""
        return NAME

    def begin(self, backbone: Backbone, prompt: TokenBatch) -> GuidanceSession:
        """A session that changes the weights in every pass."""
        return AdapterSession(backbone, self.changes(backbone.device))

    def changes(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """What is added to each linear map, (outputs, inputs); nothing at coefficient 0."""
        if self.coefficient == 0:
            return {}
        scale = self.coefficient * self.config.alpha / self.config.rank
        return {
            name: LowRank(pair.a.to(device), pair.b.to(device)).change(scale)
            for name, pair in self.adapters.items()
        }

    @classmethod
    def fit(cls, backbone: Backbone, data: ValueData, config: DPOSettings, *, seed: int) -> "DPO":
        """Train adapters on a copy of the backbone.

        Raises:
            ConfigError: trl or peft is not installed.
            DataError: No target has a harmful reply.
            BackboneError: The backbone's checkpoint cannot be read again.
            NonFiniteError: Training diverged.
        """
        preferences, counts = draw_preferences(data, benign_ratio=config.benign_ratio, seed=seed)
        with _random_numbers_kept(backbone.device):
            training = _optional("workbench.guidance.dpo_training")
            trained = training.train_adapters(backbone, preferences, config, seed=seed)
        about = {**counts, "steps": trained.steps, "mean_loss": trained.loss}
        return cls(config, trained.adapters, training=about)

    def save(
        self, folder: str | Path, backbone: Backbone, *, about: Mapping[str, object] | None = None
    ) -> None:
        """Write the adapters at factor 1, see :func:`workbench.guidance.artifact.save_artifact`."""
        tensors = {f"{name}.{side}": getattr(pair, side)
                   for name, pair in self.adapters.items() for side in "ab"}  # fmt: skip
        about = {**self.training, **(about or {})}
        save_artifact(folder, NAME, self.config, tensors, backbone=backbone, about=about)

    @classmethod
    def load(cls, folder: str | Path, backbone: Backbone) -> "DPO":
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: See :func:`workbench.guidance.artifact.load_artifact`.
        """
        artifact = load_artifact(folder, NAME, backbone)
        config = read_config(artifact, DPOSettings, folder)
        shapes: dict[str, tuple[int, ...]] = {}
        for name, linear in backbone.linear_maps.items():
            shapes[f"{name}.a"] = (config.rank, linear.inputs)
            shapes[f"{name}.b"] = (linear.outputs, config.rank)
        tensors = take_tensors(artifact, shapes, folder)
        return cls(
            config,
            {n: LowRank(tensors[f"{n}.a"], tensors[f"{n}.b"]) for n in backbone.linear_maps},
        )

    def export_peft(self, folder: str | Path, backbone: Backbone) -> None:
        """Write an adapter folder that ``peft.PeftModel.from_pretrained`` reads.

        peft knows alpha / r alone, so the coefficient goes into B.

        Raises:
            ConfigError: peft is not installed.
            RunError: The folder cannot be written.
        """
        written = lora_config(backbone, self.config)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written.base_model_name_or_path = backbone.name
        written.inference_mode = True
        written.save_pretrained(str(folder))
        tensors: dict[str, Tensor] = {}
        for name, pair in self.adapters.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = pair.a.contiguous()
            tensors[f"base_model.model.{name}.lora_B.weight"] = self.coefficient * pair.b
        write_tensors(folder / "adapter_model.safetensors", tensors)

    @torch.no_grad()
    def merge(self, folder: str | Path, backbone: Backbone) -> None:
        """Write an ordinary checkpoint whose weights hold the change, tokenizer included.

        Raises:
            BackboneError: The backbone's checkpoint cannot be read again.
            CheckpointError: The folder holds a checkpoint already.
        """
        folder = Path(folder)
        if (folder / "config.json").exists():
            raise CheckpointError(f"{folder} holds a checkpoint already: choose another folder")
        model, tokenizer = load_plain(backbone)
        for name, change in self.changes().items():
            weight = model.get_submodule(name).get_parameter("weight")
            stored = backbone.linear_maps[name].as_stored(change)
            weight.copy_((weight.float() + stored).to(weight.dtype))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def grid(backbone: Backbone) -> tuple[DPOSettings, ...]:
    """Six trainings: how far the model may move, and how fast it learns.

    Other methods may try up to ``MAX_CANDIDATES``, but each of these costs a training (under a
    minute of one core on an embedded backbone). Benign pairs are always there: on testbed-llama,
    without them, look-alike prompts are refused three times as often at about the same harm.
    """
    return tuple(
        DPOSettings(beta=beta, learning_rate=rate)
        for beta in (0.1, 0.3)
        for rate in (5e-4, 1e-3, 2e-3)
    )


@contextmanager
def _random_numbers_kept(device: torch.device) -> Iterator[None]:
    """Importing and running the trainer seeds Python's, NumPy's and torch's generators; undo it."""
    python, numpy = random.getstate(), np.random.get_state()
    gpus: list[Any] = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _optional(module: str) -> Any:  # noqa: ANN401 - a module of an extra
    try:
        return import_module(module)
    except (ImportError, RuntimeError) as error:  # trl wraps what its lazy modules cannot import
        missing = _missing_module(error)
        if missing is None:
            raise
        raise ConfigError(
            f"{missing} is not installed: DPO and peft's adapters need the extra, "
            'pip install "svgt-workbench[dpo]"'
        ) from error


def _missing_module(error: BaseException | None) -> str | None:
    """The package whose import failed at the root of an error; None where none did."""
    while error is not None:
        if isinstance(error, ImportError) and error.name:
            return error.name.split(".")[0]
        error = error.__cause__
    return None


FITTED: tuple[Method, ...] = (
    Method(
        name=NAME,
        title="DPO with LoRA",
        source="arXiv 2305.18290",
        config_type=DPOSettings,
        grid=grid,
        fit=DPO.fit,
        load=DPO.load,
    ),
)
