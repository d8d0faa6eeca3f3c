"""What collecting states costs, as ratios on one machine.

Random prompts of many lengths go through a model with random weights on the CPU; wanted is the
residual stream at every prompt's last token, after every block and before the first. Compared are

* ``collect``: the collection of this package, batch 16, which also encodes the prompts, writes the
  states to a memory-mapped store and hashes the finished files;
* ``run_with_cache``: the plain TransformerLens loop, one prompt at a time, everything cached, on
  prompts that are encoded already, states kept in memory;
* ``filtered``: the same loop caching the residual stream alone.

Two models: GPT-2-small-sized, where arithmetic counts, and the size of the embedded backbones,
where overhead does. Runs are interleaved, so a busy moment hits all alike; ratios are those of the
median tokens a second. Time is CPU time of one thread (the wall's ratios stand beside it).

    python benchmarks/collection.py            a table
    python benchmarks/collection.py --json     the same as one JSON object on the last line
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from probes.collection import StateStore, collect
from workbench.backbone import TransformerLensBackbone, wrap_model
from workbench.data.example import Example, as_conversation

BATCH_SIZE = 16


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        name: Name in the result.
        model: The model.
        n_prompts: Prompts.
        lengths: Fewest and most tokens of a prompt.
    """

    name: str
    model: GPT2Config
    n_prompts: int
    lengths: tuple[int, int]


def full_sizes() -> tuple[Size, ...]:
    """GPT-2 small, and a model like the embedded ones with prompts as long as theirs."""
    embedded = GPT2Config(vocab_size=1024, n_positions=256, n_embd=96, n_layer=6, n_head=4)
    return (
        Size("gpt2-small", GPT2Config(), n_prompts=128, lengths=(16, 96)),
        Size("embedded", embedded, n_prompts=256, lengths=(16, 64)),
    )


def small_sizes() -> tuple[Size, ...]:
    """Seconds in all; for tests, not for figures."""
    model = GPT2Config(vocab_size=256, n_positions=64, n_embd=64, n_layer=4, n_head=4)
    return tuple(
        Size(name, model, n_prompts=24, lengths=(4, 16)) for name in ("gpt2-small", "embedded")
    )


@dataclass(frozen=True, eq=False)
class Contestants:
    """One model, wrapped twice, and the prompts as either wants them."""

    backbone: TransformerLensBackbone
    plain: TransformerBridge
    examples: Sequence[Example]
    ids: Sequence[Tensor]
    n_parameters: int

    @property
    def n_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(row.shape[1] for row in self.ids)


def build(size: Size) -> Contestants:
    """The random model and the random prompts."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(size.model)
    model.train(False)
    model.requires_grad_(False)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    tokenizer = word_tokenizer(size.model.vocab_size)
    plain = TransformerBridge.boot_transformers(
        "gpt2", hf_model=copy.deepcopy(model), tokenizer=copy.deepcopy(tokenizer), device="cpu"
    )
    plain.train(False)
    backbone = wrap_model("random", model, tokenizer)
    rng = np.random.default_rng(1)
    fewest, most = size.lengths
    texts = [
        " ".join(f"w{i}" for i in rng.integers(1, size.model.vocab_size, size=n))
        for n in rng.integers(fewest, most + 1, size=size.n_prompts)
    ]
    examples = [
        Example(f"prompt {number}", as_conversation(text), None)
        for number, text in enumerate(texts)
    ]
    ids = [backbone.encode([text]).ids for text in texts]
    return Contestants(backbone, plain, examples, ids, n_parameters)


def word_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of the words w1, w2, ... and an end token."""
    words = {"<eos>": 0, **{f"w{i}": i for i in range(1, vocab_size)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<eos>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<eos>"
    )


def collected(contestants: Contestants) -> Tensor:
    """States by this package: (layer, prompt, width)."""
    with tempfile.TemporaryDirectory() as folder:
        store: StateStore = collect(
            contestants.backbone,
            contestants.examples,
            Path(folder) / "store",
            batch_size=BATCH_SIZE,
        )
        return store.all_layers("prompt_last")


@torch.no_grad()
def looped(contestants: Contestants, *, filtered: bool) -> Tensor:
    """States by TransformerLens, one prompt at a time: (layer, prompt, width)."""
    model = contestants.plain
    n_layers = contestants.backbone.n_layers
    names = ["blocks.0.hook_in", *(f"blocks.{i}.hook_out" for i in range(n_layers))]
    wanted = {"names_filter": names} if filtered else {}
    rows = []
    for ids in contestants.ids:
        _, cache = model.run_with_cache(ids, **wanted)
        rows.append(torch.stack([cache[name][0, -1] for name in names]))
    return torch.stack(rows, dim=1)


@dataclass(frozen=True)
class Speeds:
    """Median tokens a second of every contestant."""

    cpu: dict[str, float]
    wall: dict[str, float]


def race(contestants: Contestants, repeats: int) -> Speeds:
    """Run all of them once a round, after one round to warm up."""
    runs: dict[str, Callable[[], Tensor]] = {
        "collect": lambda: collected(contestants),
        "run_with_cache": lambda: looped(contestants, filtered=False),
        "filtered": lambda: looped(contestants, filtered=True),
    }
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            started, started_wall = time.process_time(), time.perf_counter()
            run()
            if number:
                cpu[name].append(contestants.n_tokens / (time.process_time() - started))
                wall[name].append(contestants.n_tokens / (time.perf_counter() - started_wall))
    return Speeds(
        {name: statistics.median(taken) for name, taken in cpu.items()},
        {name: statistics.median(taken) for name, taken in wall.items()},
    )


def ratios(speed: dict[str, float]) -> dict[str, float]:
    """The figures reported, from tokens a second."""
    return {
        "collect_over_run_with_cache": speed["collect"] / speed["run_with_cache"],
        "collect_over_filtered": speed["collect"] / speed["filtered"],
    }


def measure(sizes: Sequence[Size], *, repeats: int) -> dict[str, object]:
    """All ratios by model, with the tokens a second they come from."""
    result: dict[str, object] = {}
    for size in sizes:
        contestants = build(size)
        speeds = race(contestants, repeats)
        result[size.name] = {
            **ratios(speeds.cpu),
            "wall_clock": ratios(speeds.wall),
            "tokens_per_second": asdict(speeds),
            "n_tokens": contestants.n_tokens,
            "n_parameters": contestants.n_parameters,
        }
    return {**result, "batch_size": BATCH_SIZE, "repeats": repeats, "threads": 1}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved rounds (default 5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = small_sizes() if options.small else full_sizes()
    result = measure(sizes, repeats=options.repeats)
    if options.json:
        print(json.dumps(result))
        return
    table = Table("model", "ratio", "value", title="Collecting states, CPU, tokens a second")
    for model, figures in result.items():
        if isinstance(figures, dict):
            for name, value in figures.items():
                if isinstance(value, float):
                    table.add_row(model, name, f"{value:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
