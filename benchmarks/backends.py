"""What watching a model through nnsight costs over TransformerLens, and either over neither.

One model with random weights stands behind both, in one process on the CPU; runs are interleaved,
so a busy moment hits all alike, and the ratio of each pair is taken within a round. Measured are a
forward nobody watches, one whose every residual is captured, states of the middle layer read in
batches, and decoding without guidance and with slots refreshed at every token. Ratios are medians
over rounds with the middle half of them; time is CPU time of one thread.

    python benchmarks/backends.py            a table
    python benchmarks/backends.py --json     the same as one JSON object on the last line
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from workbench.backbone import FrozenBackbone, TokenBatch, trace_model, wrap_model
from workbench.guidance import GREEDY, Guidance, NoGuidance, SVGTBridge, generate
from workbench.svgt import SVGTConfig, TriggerConfig, ValueModule

LENS, NNSIGHT = "transformer-lens", "nnsight"


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        model: The model.
        n_rows: Rows of a forward; decoding takes one.
        n_prompt: Tokens of a prompt.
        n_new: New tokens.
    """

    model: LlamaConfig
    n_rows: int
    n_prompt: int
    n_new: int


def full_sizes() -> dict[str, Size]:
    """A model of 127 million parameters, and one as large as the embedded ones."""
    return {
        "12 blocks, width 768": Size(_llama(12, 768, 12, 32_000), 2, 64, 24),
        "6 blocks, width 96": Size(_llama(6, 96, 4, 1024), 2, 64, 24),
    }


def small_sizes() -> dict[str, Size]:
    """Seconds in all; for tests, not for figures."""
    return {"small": Size(_llama(4, 32, 4, 64), 2, 6, 4)}


def _llama(n_layers: int, width: int, n_heads: int, vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_heads // 2,
        max_position_embeddings=256,
    )


def build(size: Size) -> tuple[LlamaForCausalLM, dict[str, FrozenBackbone]]:
    """The random model, plain and behind either library."""
    torch.manual_seed(0)
    plain = LlamaForCausalLM._from_config(size.model, attn_implementation="eager").eval()
    plain.requires_grad_(False)
    words = {f"w{number}": number for number in range(size.model.vocab_size)}
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0"))
    )
    return plain, {
        LENS: wrap_model("random", copy.deepcopy(plain), tokenizer),
        NNSIGHT: trace_model("random", copy.deepcopy(plain), tokenizer),
    }


def tasks(backbone: FrozenBackbone, size: Size) -> dict[str, Callable[[], object]]:
    """What is measured."""
    generator = torch.Generator().manual_seed(1)
    shape = (size.n_rows, size.n_prompt)
    ids = torch.randint(1, size.model.vocab_size, shape, generator=generator)
    batch = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))
    torch.manual_seed(2)
    layer = backbone.n_layers // 2
    module = ValueModule(
        SVGTConfig(backbone.d_model, layer, trigger=TriggerConfig(mode="current"))
    ).eval()

    def captured() -> None:
        with torch.no_grad(), backbone.capture(range(backbone.n_layers)):
            backbone.logits(batch)

    def decoded(guidance: Guidance) -> Callable[[], object]:
        return lambda: generate(
            backbone,
            batch.rows(slice(0, 1)),
            guidance,
            max_new_tokens=size.n_new,
            sampling=GREEDY,
            stop=(),
        )

    return {
        "forward": lambda: backbone.logits(batch),
        "forward, every residual captured": captured,
        "states of the middle layer": lambda: backbone.read_states(batch, [layer]),
        "decode": decoded(NoGuidance()),
        "decode, slots refreshed every token": decoded(SVGTBridge(module, refresh=1)),
    }


@dataclass(frozen=True)
class Ratio:
    """A ratio of times over the rounds: median, and the middle half."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, above: list[float], below: list[float]) -> "Ratio":
        """Round by round."""
        ratios = [a / b for a, b in zip(above, below, strict=True)]
        if len(ratios) == 1:
            return cls(ratios[0], ratios[0], ratios[0])
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(median, low, high)


def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of every run in every round, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            started = time.process_time()
            run()
            if number:
                seconds[name].append(time.process_time() - started)
    return seconds


def measure(size: Size, repeats: int) -> dict[str, dict[str, object]]:
    """The ratios of one size, by task."""
    plain, backbones = build(size)
    by_backend = {name: tasks(backbone, size) for name, backbone in backbones.items()}
    found: dict[str, dict[str, object]] = {}
    for task in by_backend[LENS]:
        runs = {name: by_backend[name][task] for name in (LENS, NNSIGHT)}
        if task == "forward":
            ids = torch.ones((size.n_rows, size.n_prompt), dtype=torch.long)
            runs["plain"] = lambda ids=ids: plain(ids, use_cache=False)
        with torch.no_grad():
            seconds = interleaved(runs, repeats)
        pair = Ratio.of(seconds[NNSIGHT], seconds[LENS])
        found[task] = {"nnsight_over_transformer_lens": vars(pair)}
        if "plain" in seconds:
            for name in (LENS, NNSIGHT):
                key = f"{name.replace('-', '_')}_over_plain"
                found[task][key] = vars(Ratio.of(seconds[name], seconds["plain"]))
        found[task]["median_cpu_seconds"] = {
            name: statistics.median(taken) for name, taken in seconds.items()
        }
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--repeats", type=int, default=7, help="interleaved rounds (default 7)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = small_sizes() if options.small else full_sizes()
    result = {name: measure(size, options.repeats) for name, size in sizes.items()}
    if options.json:
        print(json.dumps({"repeats": options.repeats, "threads": 1, **result}))
        return
    table = Table("model", "task", "ratio", "median [middle half]", title="CPU time, one thread")
    for name, found in result.items():
        for task, ratios in found.items():
            for key, value in ratios.items():
                if isinstance(value, dict) and "median" in value:
                    text = f"{value['median']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
                    table.add_row(name, task, key.replace("_", " "), text)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
