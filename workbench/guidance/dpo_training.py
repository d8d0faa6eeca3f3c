"""Training low-rank adapters by preferences, with trl and peft; imported only when it happens.

Direct preference optimisation (arXiv 2305.18290) minimises, over pairs of a prompt x with a better
reply y+ and a worse one y-,

    -log sigmoid( beta [ log p(y+|x)/p0(y+|x) - log p(y-|x)/p0(y-|x) ] )

where p0 is the model as it was: here the same model with its adapters off. The trainer is trl's,
on a plain copy of the backbone that is thrown away afterwards; what it reads are the ids of the
backbone's own tokenisation. It writes no checkpoint and reports to no service. It does seed the
global generators of random numbers; the caller puts them back.
"""

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset  # type: ignore[import-untyped]
from torch import nn
from transformers import PrinterCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from workbench.backbone import load_plain
from workbench.backbone.protocol import Backbone, TokenBatch
from workbench.errors import BackboneError, ConfigError, NonFiniteError
from workbench.guidance.adapting import LowRank
from workbench.guidance.dpo import DPOSettings, Preference, lora_config

_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


@dataclass(frozen=True, eq=False)
class TrainedAdapters:
    """What training gave.

    Attributes:
        adapters: Factors by the name of the linear map.
        loss: Mean preference loss over all steps of the training.
        steps: How many there were.
    """

    adapters: dict[str, LowRank]
    loss: float
    steps: int


def train_adapters(
    backbone: Backbone, preferences: Sequence[Preference], settings: DPOSettings, *, seed: int
) -> TrainedAdapters:
    """Train adapters of all linear maps of the blocks.

    Args:
        backbone: What they are for; only read.
        preferences: At least one.
        settings: How to train.
        seed: Decides the adapters' first values and the order of the pairs.

    Raises:
        TokenError: A text is empty or has unknown words.
        ContextLengthError: A prompt with a reply exceeds the context.
        BackboneError: The backbone's checkpoint cannot be read again, or it is spread over devices.
        NonFiniteError: Training diverged.
    """
    if len(backbone.devices) > 1:
        raise BackboneError(
            f"DPO trains a copy of the backbone on one device, and {backbone.name} is spread over "
            f"{len(backbone.devices)}: load it on one, or train the adapters elsewhere"
        )
    rows = token_rows(backbone, preferences)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # trl and peft still use names that transformers is going to drop.
        warnings.simplefilter("ignore", FutureWarning)
        model, tokenizer = load_plain(backbone)
        trainer = _Trainer(
            model=model,
            args=_arguments(settings, folder, seed, on_cpu=backbone.device.type == "cpu"),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            data_collator=DataCollatorForPreference(pad_token_id=backbone.pad_id),
            peft_config=lora_config(backbone, settings),
        )
        _check_columns(trainer)
        trainer.remove_callback(PrinterCallback)
        output = trainer.train()
        assert isinstance(trainer.model, nn.Module)
        adapters = _factors(trainer.model, backbone)
    return TrainedAdapters(adapters, float(output.training_loss), int(output.global_step))


def token_rows(backbone: Backbone, preferences: Sequence[Preference]) -> list[dict[str, list[int]]]:
    """Ids of prompts and replies, exactly as decoding and teacher forcing see them.

    Raises:
        TokenError: A text is empty or has unknown words.
        ContextLengthError: A prompt with a reply exceeds the context.
    """
    batches = (
        backbone.encode([pair.prompt for pair in preferences]),
        backbone.encode_responses([pair.chosen for pair in preferences]),
        backbone.encode_responses([pair.rejected for pair in preferences]),
    )
    rows = [
        dict(zip(_COLUMNS, ids, strict=True)) for ids in zip(*map(_id_rows, batches), strict=True)
    ]
    for row in rows:
        longest = max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        backbone.check_context(len(row["prompt_ids"]), n_slots=0, n_new=longest)
    return rows


def _id_rows(batch: TokenBatch) -> list[list[int]]:
    return [ids[mask].tolist() for ids, mask in zip(batch.ids, batch.mask, strict=True)]


class _Trainer(DPOTrainer):
    """trl's trainer on ids that are ready, telling nobody."""

    def _prepare_dataset(self, dataset: Dataset, *args: object, **kwargs: object) -> Dataset:
        return dataset

    def _send_telemetry(self) -> None:
        return


def _check_columns(trainer: Any) -> None:  # noqa: ANN401 - its members are private to trl
    """Guard against a version of trl that reads other columns."""
    trainer._set_signature_columns_if_needed()
    read = set(trainer._signature_columns)
    if not read.issuperset(_COLUMNS) or set(trainer.train_dataset.column_names) != set(_COLUMNS):
        raise ConfigError(
            f"this version of trl reads {', '.join(sorted(read))}, not {', '.join(_COLUMNS)}: "
            'pip install "trl>=1.0,<2"'
        )


def _arguments(settings: DPOSettings, folder: str, seed: int, *, on_cpu: bool) -> DPOConfig:
    return DPOConfig(
        output_dir=folder,
        beta=settings.beta,
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        lr_scheduler_type="linear",
        warmup_steps=0.1,  # of all steps
        weight_decay=0.0,
        max_length=None,  # nothing is cut
        bf16=False,
        gradient_checkpointing=False,
        disable_dropout=True,
        use_cpu=on_cpu,
        seed=seed,
        data_seed=seed,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to="none",
        push_to_hub=False,
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )


def _factors(model: nn.Module, backbone: Backbone) -> dict[str, LowRank]:
    """The trained factors by the name of the linear map.

    Raises:
        NonFiniteError: One holds a NaN or an infinity.
        BackboneError: A map has none.
    """
    held = {name: tensor.detach().cpu() for name, tensor in model.named_parameters()}
    factors: dict[str, LowRank] = {}
    for name in backbone.linear_maps:
        try:
            a, b = (held[f"base_model.model.{name}.lora_{side}.default.weight"] for side in "AB")
        except KeyError as error:
            raise BackboneError(f"peft made no adapter for '{name}' of {backbone.name}") from error
        if not bool(a.isfinite().all() and b.isfinite().all()):
            raise NonFiniteError(
                f"training by preferences diverged: the adapter of '{name}' is not finite; lower "
                "learning_rate"
            )
        factors[name] = LowRank(a.clone(), b.clone())
    return factors
