"""What guidance costs at decoding time, as ratios on one machine.

A GPT-2-small-sized model with random weights reads 64 prompt tokens and writes 48 new ones on the
CPU. Compared are the decoder of this package without guidance, with an SVGT bridge refreshed every
token (r = 1) and every fifth (r = 5), and the way the published code decodes: the whole sequence is
run twice for every new token, without a cache. Runs are interleaved, so a busy moment hits all
alike; ratios are those of the medians. Time is CPU time of one thread: on an idle machine the same
as the clock on the wall, on a busy one the least disturbed (the wall's ratios stand beside it).
Peak memory is the peak resident size of a process of its own for each kind.

    python benchmarks/decoding.py            a table
    python benchmarks/decoding.py --json     the same as one JSON object on the last line
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from workbench.backbone import TokenBatch, TransformerLensBackbone, wrap_model
from workbench.guidance import GREEDY, Guidance, NoGuidance, SVGTBridge, generate
from workbench.svgt import SVGTConfig, TriggerConfig, ValueModule


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    model: GPT2Config
    module: SVGTConfig
    n_prompt: int
    n_new: int


def full_size() -> Size:
    """GPT-2 small with the paper's value module for it."""
    module = SVGTConfig(
        d_model=768, layer=7, n_bridge=5, d_value=128, trigger=TriggerConfig(mode="current")
    )
    return Size(GPT2Config(), module, n_prompt=64, n_new=48)


def small_size() -> Size:
    """Seconds in all; for tests, not for figures."""
    module = SVGTConfig(
        d_model=64, layer=1, n_bridge=2, d_value=32, trigger=TriggerConfig(mode="current")
    )
    model = GPT2Config(vocab_size=256, n_positions=64, n_embd=64, n_layer=4, n_head=4)
    return Size(model, module, n_prompt=8, n_new=6)


def build(size: Size) -> tuple[GPT2LMHeadModel, ValueModule]:
    """The random model and the random value module."""
    torch.manual_seed(0)
    model, module = GPT2LMHeadModel(size.model), ValueModule(size.module)
    for part in (model, module):
        part.train(False)
        part.requires_grad_(False)
    return model, module


def wrapped(model: GPT2LMHeadModel) -> TransformerLensBackbone:
    """The model with a tokenizer that nobody asks anything."""
    words = {f"w{number}": number for number in range(model.config.vocab_size)}
    inner = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)  # type: ignore[no-untyped-call]
    return wrap_model("gpt2-small-random", model, tokenizer)


def prompts(size: Size, n_rows: int) -> TokenBatch:
    """Random prompts."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(size.model.vocab_size, (n_rows, size.n_prompt), generator=generator)
    return TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))


def decode(
    backbone: TransformerLensBackbone, batch: TokenBatch, guidance: Guidance, n_new: int
) -> None:
    """Generate with the decoder of this package."""
    generate(backbone, batch, guidance, max_new_tokens=n_new, sampling=GREEDY, stop=())


@torch.no_grad()
def decode_in_two_passes(
    model: GPT2LMHeadModel, module: ValueModule, prompt: Tensor, n_new: int
) -> Tensor:
    """One token after another, each by two full passes, as the published code does.

    First pass over prompt and response for the states at block L; second pass over the sequence
    with K more places, in which the output of block L is replaced by [prompt, bridge, response].
    """
    layer, n_slots = module.config.layer, module.config.n_bridge
    n_prompt = prompt.shape[1]
    ids = prompt
    bridge = torch.zeros(())
    for step in range(n_new):
        response = torch.arange(n_prompt + n_slots, ids.shape[1] + n_slots)
        positions = torch.cat([torch.arange(n_prompt), response])[None]
        hidden = model(ids, position_ids=positions, output_hidden_states=True).hidden_states
        state = hidden[layer + 1]
        if step % 5 == 0:
            mask = torch.ones((1, n_prompt), dtype=torch.bool)
            on_prompt, newest = state[:, :n_prompt], state[:, -1]
            new = module.write_bridge({layer: on_prompt}, mask, current={layer: newest}).bridge
            bridge = new if step == 0 else 0.8 * bridge + 0.2 * new
        spliced = torch.cat([state[:, :n_prompt], bridge, state[:, n_prompt:]], dim=1)
        longer = torch.cat([ids, ids[:, :n_slots]], dim=1)
        handle = model.transformer.h[layer].register_forward_hook(_replacing(spliced))
        try:
            logits = model(longer).logits
        finally:
            handle.remove()
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids[:, n_prompt:]


def _replacing(states: Tensor) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    def replace(_: object, __: object, output: Tensor | tuple[Tensor, ...]) -> object:
        return (states, *output[1:]) if isinstance(output, tuple) else states

    return replace  # type: ignore[return-value]


@dataclass(frozen=True)
class Medians:
    """Median seconds of every run."""

    cpu: dict[str, float]
    wall: dict[str, float]


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> Medians:
    """Run all of them once a round, after one round to warm up."""
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            started, started_wall = time.process_time(), time.perf_counter()
            run()
            if number:
                cpu[name].append(time.process_time() - started)
                wall[name].append(time.perf_counter() - started_wall)
    return Medians(
        {name: statistics.median(taken) for name, taken in cpu.items()},
        {name: statistics.median(taken) for name, taken in wall.items()},
    )


def peak_memory(kind: str, small: bool) -> int:
    """Peak resident size in KiB of a fresh process that decodes once."""
    command = [sys.executable, __file__, "--only-memory", kind]
    answer = subprocess.run(
        command + (["--small"] if small else []), check=True, capture_output=True, text=True
    )
    return int(answer.stdout.strip().splitlines()[-1])


def own_peak_memory() -> int:
    """Peak resident size of this process in KiB.

    Not ``getrusage``: there a child inherits its parent's peak.
    """
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def time_ratios(median: dict[str, float]) -> dict[str, float]:
    """The figures reported, from median seconds."""
    return {
        "guided_over_unguided_r1": median["guided r=1"] / median["unguided"],
        "guided_over_unguided_r5": median["guided r=5"] / median["unguided"],
        "two_pass_over_guided": median["two passes"] / median["guided r=5"],
        "batch16_tokens_per_s_over_batch1": 16
        * median["guided r=5"]
        / median["batch 16, guided r=5"],
    }


def guidances(module: ValueModule) -> dict[str, Guidance]:
    """The decoders of this package that are compared."""
    return {
        "unguided": NoGuidance(),
        "guided r=1": SVGTBridge(module, refresh=1),
        "guided r=5": SVGTBridge(module, refresh=5),
    }


def measure(size: Size, *, repeats: int, small: bool) -> dict[str, object]:
    """All ratios, with the median seconds they come from."""
    memory = {kind: peak_memory(kind, small) for kind in ("unguided", "guided r=5")}
    model, module = build(size)
    published = copy.deepcopy(model)
    backbone = wrapped(model)
    one, sixteen = prompts(size, 1), prompts(size, 16)
    runs: dict[str, Callable[[], object]] = {
        name: _decoding(backbone, one, guidance, size.n_new)
        for name, guidance in guidances(module).items()
    }
    runs["two passes"] = lambda: decode_in_two_passes(published, module, one.ids, size.n_new)
    runs["batch 16, guided r=5"] = _decoding(
        backbone, sixteen, SVGTBridge(module, refresh=5), size.n_new
    )
    median = interleaved(runs, repeats)
    return {
        **time_ratios(median.cpu),
        "peak_memory_over_unguided": memory["guided r=5"] / memory["unguided"],
        "wall_clock": time_ratios(median.wall),
        "median_cpu_seconds": median.cpu,
        "median_wall_seconds": median.wall,
        "peak_memory_kib": memory,
        "repeats": repeats,
        "threads": 1,
        "n_prompt": size.n_prompt,
        "n_new": size.n_new,
        "n_parameters": sum(p.numel() for p in published.parameters()),
    }


def _decoding(
    backbone: TransformerLensBackbone, batch: TokenBatch, guidance: Guidance, n_new: int
) -> Callable[[], None]:
    return lambda: decode(backbone, batch, guidance, n_new)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--repeats", type=int, default=7, help="interleaved rounds (default 7)")
    parser.add_argument("--only-memory", metavar="KIND", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = small_size() if options.small else full_size()
    if options.only_memory:
        model, module = build(size)
        guidance = guidances(module)[options.only_memory]
        decode(wrapped(model), prompts(size, 1), guidance, size.n_new)
        print(own_peak_memory())
        return
    result = measure(size, repeats=options.repeats, small=options.small)
    if options.json:
        print(json.dumps(result))
        return
    table = Table("ratio", "value", title="Decoding, CPU, batch 1 unless said otherwise")
    for name, value in result.items():
        if isinstance(value, float):
            table.add_row(name, f"{value:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
