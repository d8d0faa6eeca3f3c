"""Pre-training of the embedded backbones, from a seed, resumable, on one CPU core in minutes.

Ordinary causal language modelling on dialogues drawn on the fly: step ``t`` of seed ``s`` always
sees the same batch, so a resumed run continues exactly where it stopped. Matrices inside the
blocks learn with Muon, embeddings and norms with AdamW, both with linear warm-up and decay.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)  # fmt: skip

from workbench.data.example import Conversation
from workbench.errors import CheckpointError, ConfigError
from workbench.files import read_tensors, write_tensors
from workbench.quiet import quiet_libraries
from workbench.testbed.corpus import WORLDS, World, pretraining_dialogue
from workbench.testbed.pretraining_config import PretrainConfig
from workbench.testbed.tokenizer import build_tokenizer
from workbench.training_state import load_optimizer_tensors, optimizer_tensors

_LOOKAHEAD = 4  # batches drawn at once and sorted by length, which spares most of the padding


def build_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A freshly initialised model of the configured architecture (seeded by the caller)."""
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if config.architecture == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=config.width,
                intermediate_size=config.feed_forward,
                num_hidden_layers=config.n_layers,
                num_attention_heads=config.n_heads,
                num_key_value_heads=config.n_kv_heads,
                max_position_embeddings=config.n_ctx,
                tie_word_embeddings=True,
                **special,
            )
        )
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=config.width,
            n_inner=config.feed_forward,
            n_layer=config.n_layers,
            n_head=config.n_heads,
            n_positions=config.n_ctx,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **special,
        )
    )


@dataclass(frozen=True)
class TokenisedDialogue:
    """Token ids and the loss weight of each token as a target."""

    ids: list[int]
    weights: list[float]


def tokenise_dialogue(
    dialogue: Conversation, tokenizer: PreTrainedTokenizerFast, prompt_weight: float
) -> TokenisedDialogue:
    """Tokenise with the chat template; what the assistant says and its end of text weigh 1."""
    text = tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in dialogue],
        tokenize=False,
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = tokenizer.convert_tokens_to_ids("<assistant>")
    weights, speaking = [], False
    for token in ids:
        weights.append(1.0 if speaking else prompt_weight)
        speaking = (speaking or token == start) and token != tokenizer.eos_token_id
    return TokenisedDialogue(ids, weights)


@dataclass(frozen=True)
class PretrainBatch:
    """Right-padded ids, targets' weights, attention mask and positions, each [batch, seq]."""

    ids: Tensor
    weights: Tensor
    mask: Tensor
    positions: Tensor


def _collate(
    dialogues: list[TokenisedDialogue], config: PretrainConfig, rng: np.random.Generator
) -> PretrainBatch:
    length = max(len(dialogue.ids) for dialogue in dialogues)
    shape = (len(dialogues), length)
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    weights = torch.zeros(shape)
    offsets = torch.zeros(len(dialogues), 1, dtype=torch.long)
    for row, dialogue in enumerate(dialogues):
        size = len(dialogue.ids)
        ids[row, :size] = torch.tensor(dialogue.ids)
        weights[row, :size] = torch.tensor(dialogue.weights)
        mask[row, :size] = 1
        if rng.random() < config.shifted_share:
            offsets[row] = int(rng.integers(config.n_ctx - length + 1))
    return PretrainBatch(ids, weights, mask, torch.arange(length)[None] + offsets)


def _world_at(config: PretrainConfig, step: int) -> World:
    world = WORLDS[config.world]
    early = step < config.early_share * config.steps
    return world.refusing_more(config.early_refusal) if early else world


def batches(
    config: PretrainConfig, tokenizer: PreTrainedTokenizerFast, first_step: int
) -> Iterator[PretrainBatch]:
    """The batches from ``first_step`` on, without end; no step depends on what came before.

    Raises:
        ConfigError: if a dialogue does not fit into the context.
    """
    for chunk in range(first_step // _LOOKAHEAD, 1 << 30):
        rng = np.random.default_rng([config.seed, chunk])
        world = _world_at(config, chunk * _LOOKAHEAD)
        drawn = [
            tokenise_dialogue(pretraining_dialogue(world, rng), tokenizer, config.prompt_weight)
            for _ in range(config.batch_size * _LOOKAHEAD)
        ]
        drawn.sort(key=lambda dialogue: len(dialogue.ids))
        if len(drawn[-1].ids) > config.n_ctx:
            raise ConfigError(f"a dialogue has {len(drawn[-1].ids)} tokens; raise n_ctx")
        size = config.batch_size
        groups = [drawn[i * size : (i + 1) * size] for i in rng.permutation(_LOOKAHEAD)]
        for offset, group in enumerate(groups):
            batch = _collate(group, config, rng)
            if chunk * _LOOKAHEAD + offset >= first_step:
                yield batch


def weighted_loss(model: nn.Module, batch: PretrainBatch) -> Tensor:
    """Mean cross-entropy in nats a token, weighted by :attr:`PretrainBatch.weights`."""
    logits = model(
        input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions
    ).logits[:, :-1]
    losses = functional.cross_entropy(
        logits.flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none"
    ).view_as(batch.ids[:, 1:])
    weights = batch.weights[:, 1:]
    return (losses * weights).sum() / weights.sum()


class Pretrainer:
    """The training loop with its state; see :func:`pretrain`."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.tokenizer = build_tokenizer(config.n_ctx)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.manual_seed(config.seed)
            self.model = build_model(config, self.tokenizer)
        self.model.train()
        matrices = [
            p for n, p in self.model.named_parameters()
            if p.ndim == 2 and "embed" not in n and "wte" not in n and "wpe" not in n
        ]  # fmt: skip
        chosen = {id(p) for p in matrices}
        vectors = [p for p in self.model.parameters() if id(p) not in chosen]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "muon": torch.optim.Muon(matrices, lr=config.matrix_rate, weight_decay=0.01),
            "adamw": torch.optim.AdamW(
                vectors, lr=config.vector_rate, betas=(0.9, 0.98), weight_decay=0.0
            ),
        }
        self.step = 0

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step: linear up, then linear down to zero."""
        up = (step + 1) / max(1, self.config.warmup)
        down = (self.config.steps - step) / max(1, self.config.steps - self.config.warmup)
        return min(1.0, up, down)

    def update(self, batch: PretrainBatch) -> float:
        """One step; returns the loss in nats a token."""
        peaks = {"muon": self.config.matrix_rate, "adamw": self.config.vector_rate}
        loss = weighted_loss(self.model, batch)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = peaks[name] * self.rate(self.step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def save_state(self, path: Path) -> None:
        """Write weights, optimiser states and the step count atomically."""
        tensors = {f"model.{n}": p.detach().clone() for n, p in self.model.named_parameters()}
        for name, optimizer in self.optimizers.items():
            tensors |= optimizer_tensors(optimizer, name)
        write_tensors(path, tensors, {"step": str(self.step)})

    def load_state(self, path: Path) -> None:
        """Continue from :meth:`save_state`.

        Raises:
            CheckpointError: if the state is damaged or of another configuration.
        """
        tensors, metadata = read_tensors(path)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                saved = tensors.get(f"model.{name}")
                if saved is None or saved.shape != parameter.shape:
                    raise CheckpointError(
                        f"{path}: {name} is missing or of another shape; the saved training has "
                        "another configuration: choose another output folder"
                    )
                parameter.copy_(saved)
        for name, optimizer in self.optimizers.items():
            load_optimizer_tensors(optimizer, tensors, name)
        self.step = int(metadata["step"])


def pretrain(
    config: PretrainConfig,
    out: Path,
    *,
    resume: bool = False,
    save_every: int = 100,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Pretrainer:
    """Train an embedded backbone and write it to ``out`` as a Hugging Face checkpoint folder.

    Args:
        config: what to train.
        out: the folder; the state for resuming stands in ``out/pretraining.safetensors`` until
            training is complete.
        resume: continue from that state where it exists.
        save_every: steps between two saved states.
        on_step: called after every step with the step count and the loss.
    """
    trainer = Pretrainer(config)
    state = out / "pretraining.safetensors"
    if resume and state.exists():
        trainer.load_state(state)
    out.mkdir(parents=True, exist_ok=True)
    source = batches(config, trainer.tokenizer, trainer.step)
    while trainer.step < config.steps:
        loss = trainer.update(next(source))
        if trainer.step % save_every == 0:
            trainer.save_state(state)
        on_step(trainer.step, loss)
    trainer.model.train(False)
    with quiet_libraries():
        trainer.model.save_pretrained(out)
    trainer.tokenizer.save_pretrained(out)
    state.unlink(missing_ok=True)
    return trainer
