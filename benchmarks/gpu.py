"""What guidance costs at the sizes of real models, on a graphics card.

Models have the shapes of Qwen2-1.5B, Llama-3.2-3B and Mistral-7B and random weights, made on the
device in the backbone's number type; the value module is the paper's for that size, in float32, its
trigger on the newest token. Nothing is downloaded. One row of cells a shape and batch:

    decoding     seconds of every new token without guidance (twice, to see the noise) and with a
                 bridge refreshed every 5 tokens and every token. All decode the same prompts side
                 by side, a token of each in turn, so a slow moment hits all alike. Compared are
                 cycles of 5 tokens, each of which holds one refresh at r = 5: ratio of the sums,
                 its median over cycles, and the middle 90 % of cycles.
    memory       largest allocation guided (module included) over unguided
    bandwidth    bytes that a step cannot do without (weights, and keys and values so far) over its
                 time, as a share of the speed of a device-to-device copy (read + written bytes)
    training     tokens of prompts and responses a second in stage 3, with AdamW
    operations   tensor operations a token that are no views (each at least one kernel) and
                 waits of the computer for the device (on CUDA)
    libraries    the same cycles of the plain Hugging Face model without any hook, of the unguided
                 decoder through TransformerLens and through nnsight, and of guidance through
                 nnsight: what a library costs, and what guidance costs on the faster one

    python benchmarks/gpu.py run --device cuda --out FOLDER        gpu.json and gpu.md
    python benchmarks/gpu.py report FOLDER/gpu.json                fills docs/gpu.md
    python benchmarks/gpu.py operations                            operations alone, on the CPU

A cell that fails (out of memory, out of time) is recorded with its reason, and the rest goes on.
"""

import gc
import json
import platform
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from workbench.backbone import (
    FrozenBackbone,
    TokenBatch,
    TransformerLensBackbone,
    trace_model,
    wrap_model,
)
from workbench.cli._scripts import run_script
from workbench.export.markdown import fill_section
from workbench.files import write_json
from workbench.guidance import GREEDY, Guidance, NoGuidance, SVGTBridge
from workbench.guidance.decoding import stream
from workbench.provenance import provenance
from workbench.svgt import ValueModule
from workbench.svgt.curriculum.recipe import Recipe
from workbench.svgt.curriculum.stages import TokenisedTargets, bridge_loss
from workbench.svgt.recipes import make_recipe

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
ROOT = Path(__file__).resolve().parent.parent
KINDS = ("unguided", "unguided again", "r = 5", "r = 1")
PLAIN, LENS, NNSIGHT = "Hugging Face", "TransformerLens", "nnsight"
LIBRARIES = (PLAIN, LENS, NNSIGHT, "nnsight, r = 5", "nnsight, r = 1")
PACKAGES = ("torch", "transformers", "transformer-lens", "nnsight")
CYCLE = 5
SECTION = "gpu"


@dataclass(frozen=True)
class Preset:
    """How large everything is.

    Attributes:
        shapes: Configurations by name.
        batches: Rows decoded at once.
        n_prompt: Prompt tokens.
        n_new: New tokens; one more than a multiple of 5 uses all of them.
        train_rows: Rows of a training step.
        n_response: Response tokens of a training example.
        copied: Bytes of the buffer whose copying measures the bandwidth.
    """

    shapes: dict[str, PretrainedConfig]
    batches: tuple[int, ...]
    n_prompt: int
    n_new: int
    train_rows: int
    n_response: int
    copied: int


def paper() -> Preset:
    """The shapes of three of the paper's backbones."""
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    shapes: dict[str, PretrainedConfig] = {
        "Qwen2-1.5B": Qwen2Config(
            vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
            num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=4096,
            tie_word_embeddings=True, rope_parameters=rope, use_sliding_window=False,
        ),
        "Llama-3.2-3B": LlamaConfig(
            vocab_size=128256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28,
            num_attention_heads=24, num_key_value_heads=8, head_dim=128,
            max_position_embeddings=4096, tie_word_embeddings=True, rope_parameters=rope,
        ),
        "Mistral-7B": MistralConfig(
            vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=4096,
            sliding_window=None, tie_word_embeddings=False, rope_parameters=rope,
        ),
    }  # fmt: skip
    return Preset(
        shapes, (1, 8, 32), n_prompt=96, n_new=64, train_rows=8, n_response=64, copied=2**31
    )


def tiny() -> Preset:
    """Seconds in all on a CPU; to try the script, not for figures."""
    shape = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        tie_word_embeddings=False,
    )  # fmt: skip
    return Preset(
        {"tiny": shape}, (1, 2), n_prompt=8, n_new=11, train_rows=2, n_response=6, copied=2**22
    )


PRESETS: dict[str, Callable[[], Preset]] = {"paper": paper, "tiny": tiny}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass
class Cell:
    """One shape at one batch size; NaN-free: what was not measured is None, with the reason.

    Attributes:
        shape: Name of the shape.
        batch: Rows.
        rounds: Times that the whole response was decoded.
        cycles: Cycles of 5 tokens compared.
        tokens_per_s: By kind, from the median cycle.
        ratio: By kind: time over unguided, [median, 5th, 95th percentile of the cycles].
        prompt_seconds: By kind: median time to the first token.
        peak_bytes: By kind: largest allocation.
        step_bytes: Bytes that a step reads at least.
        bandwidth_share: Of a copy's bandwidth, unguided.
        failure: Why something is missing.
    """

    shape: str
    batch: int
    rounds: int = 0
    cycles: int = 0
    tokens_per_s: dict[str, float] = field(default_factory=dict)
    ratio: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    prompt_seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    step_bytes: int | None = None
    bandwidth_share: float | None = None
    failure: str | None = None


@dataclass
class Libraries:
    """The libraries at one shape and batch size, with the fields of :class:`Cell`.

    Attributes:
        shape: Name of the shape.
        batch: Rows.
        rounds: Times that the whole response was decoded.
        cycles: Cycles of 5 tokens compared.
        tokens_per_s: By kind, from the median cycle.
        ratio: By kind: time over the plain model's.
        guided_ratio: By kind of guidance: time over the same library without guidance.
        prompt_seconds: By kind: median time to the first token.
        failure: Why something is missing.
    """

    shape: str
    batch: int
    rounds: int = 0
    cycles: int = 0
    tokens_per_s: dict[str, float] = field(default_factory=dict)
    ratio: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    guided_ratio: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    prompt_seconds: dict[str, float] = field(default_factory=dict)
    failure: str | None = None


@dataclass
class Training:
    """Stage 3 at one shape."""

    shape: str
    rows: int
    steps: int = 0
    tokens_per_s: float | None = None
    spread: tuple[float, float] | None = None
    peak_bytes: int | None = None
    failure: str | None = None


@dataclass
class Operations:
    """Operations a token at one shape, by kind: (plain step, step with a refresh)."""

    shape: str
    operations: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    waits: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    failure: str | None = None


@dataclass
class Results:
    """Everything that was measured, and on what."""

    device: str
    preset: str
    dtype: str
    n_prompt: int
    n_new: int
    n_response: int
    provenance: dict[str, object]
    seconds: float = 0.0
    copy_bytes_per_s: float | None = None
    parameters: dict[str, int] = field(default_factory=dict)
    module_parameters: dict[str, int] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    training: list[Training] = field(default_factory=list)
    operations: list[Operations] = field(default_factory=list)
    libraries: list[Libraries] = field(default_factory=list)


# ------------------------------------------------------------------ building


@dataclass(frozen=True, eq=False)
class Built:
    """A random model.

    Attributes:
        config: Its shape.
        backbone: Wrapped, with a tokenizer that nobody asks anything.
        n_parameters: Its numbers, shared ones once.
        weight_bytes: Their bytes.
    """

    config: PretrainedConfig
    backbone: TransformerLensBackbone
    n_parameters: int
    weight_bytes: int


def random_model(config: PretrainedConfig, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """A random model on the device, in its number type from the start; the same at every call."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    made: PreTrainedModel = model.to(device).eval().requires_grad_(False)
    return made


def word_tokenizer(config: PretrainedConfig) -> PreTrainedTokenizerFast:
    """A tokenizer as large as the embedding, which nobody asks anything."""
    words = {f"w{number}": number for number in range(config.vocab_size)}
    inner = Tokenizer(WordLevel(words, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=inner)  # type: ignore[no-untyped-call]


def build(config: PretrainedConfig, device: str, dtype: torch.dtype) -> Built:
    """Make a random model and wrap it."""
    model = random_model(config, device, dtype)
    weights = list(model.parameters())
    return Built(
        config,
        wrap_model("random", model, word_tokenizer(config)),
        n_parameters=sum(weight.numel() for weight in weights),
        weight_bytes=sum(weight.nbytes for weight in weights),
    )


def build_module(recipe: Recipe, device: str) -> ValueModule:
    """An untrained value module in float32."""
    torch.manual_seed(0)
    return ValueModule(recipe.module).to(device).freeze().eval()


def recipe_for(config: PretrainedConfig) -> Recipe:
    """The paper's module, whose trigger follows the response."""
    return make_recipe("paper-fixed", d_model=config.hidden_size, n_layers=config.num_hidden_layers)


def guidances(module: ValueModule) -> dict[str, Guidance]:
    """What is compared."""
    return {
        "unguided": NoGuidance(),
        "unguided again": NoGuidance(),
        "r = 5": SVGTBridge(module, refresh=5),
        "r = 1": SVGTBridge(module, refresh=1),
    }


def prompts(config: PretrainedConfig, rows: int, length: int, device: str) -> TokenBatch:
    """Random tokens."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(config.vocab_size, (rows, length), generator=generator).to(device)
    return TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))


def step_bytes(built: Built, rows: int, columns: float) -> int:
    """Least bytes that a decoding step reads: every weight once, keys and values once.

    Of an embedding that is not also the readout a step reads a few rows only.
    """
    config, itemsize = built.config, built.backbone.dtype.itemsize
    total = built.weight_bytes
    if not config.tie_word_embeddings:
        total -= config.vocab_size * config.hidden_size * itemsize
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kept = 2 * config.num_hidden_layers * config.num_key_value_heads * width
    return total + round(rows * columns * kept * itemsize)


# ----------------------------------------------------------------- measuring


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def forget(device: str) -> None:
    """Give memory back between cells."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


@contextmanager
def peak_of(device: str) -> Iterator[list[int]]:
    """The largest allocation within, in bytes; 0 on a CPU, where it is not measured."""
    found = [0]
    on_card = device.startswith("cuda")
    if on_card:
        forget(device)
        torch.cuda.reset_peak_memory_stats()
    yield found
    if on_card:
        found[0] = torch.cuda.max_memory_allocated()


def copy_bandwidth(device: str, n_bytes: int) -> float:
    """Bytes read plus bytes written a second by a large copy on the device: median of 10."""
    source = torch.randint(256, (n_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    taken = []
    for number in range(12):
        synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        if number >= 2:
            taken.append(time.perf_counter() - started)
    return 2 * n_bytes / statistics.median(taken)


@torch.no_grad()
def plain_tokens(model: PreTrainedModel, batch: TokenBatch, n_new: int) -> Iterator[Tensor]:
    """Greedy decoding of the bare model with its own cache: no hooks, no library, no guidance."""
    cache = DynamicCache(config=model.config)
    ids = batch.ids
    for _ in range(n_new):
        logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        ids = logits[:, -1:].argmax(dim=-1)
        yield ids[:, 0]


def tokens(
    backbone: FrozenBackbone, batch: TokenBatch, guidance: Guidance, n_new: int
) -> Iterator[object]:
    """The decoder of this package, token by token."""
    return stream(backbone, batch, guidance, max_new_tokens=n_new, sampling=GREEDY, stop=())


def timed(device: str, running: Iterator[object]) -> float:
    """Seconds of the next token, the device's work included."""
    started = time.perf_counter()
    next(running)
    synchronize(device)
    return time.perf_counter() - started


Decoders = Mapping[str, Callable[[], Iterator[object]]]
"""By kind, what begins to decode the prompts, token by token."""


def guided_decoders(
    backbone: FrozenBackbone, batch: TokenBatch, compared: Mapping[str, Guidance], n_new: int
) -> Decoders:
    """One backbone under several guidances."""
    return {
        name: partial(tokens, backbone, batch, guidance, n_new)
        for name, guidance in compared.items()
    }


def one_round(
    decoders: Decoders, n_new: int, device: str, offset: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Decode with all kinds side by side: seconds to the first token, and of every later one."""
    names = list(decoders)
    running = {name: begin() for name, begin in decoders.items()}
    first: dict[str, float] = {}
    later: dict[str, list[float]] = {name: [] for name in names}
    for step in range(n_new):
        turn = (step + offset) % len(names)
        for name in names[turn:] + names[:turn]:
            taken = timed(device, running[name])
            if step == 0:
                first[name] = taken
            else:
                later[name].append(taken)
    return first, later


def in_cycles(seconds: list[float]) -> list[float]:
    """Sums over cycles of 5 tokens; what is left over is dropped."""
    whole = len(seconds) // CYCLE * CYCLE
    return [sum(seconds[start : start + CYCLE]) for start in range(0, whole, CYCLE)]


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median, and where the middle 90 % lie."""
    low, middle, high = np.quantile(np.asarray(values), [0.05, 0.5, 0.95])
    return float(middle), float(low), float(high)


def measure_peaks(
    cell: Cell,
    backbone: TransformerLensBackbone,
    batch: TokenBatch,
    compared: dict[str, Guidance],
    preset: Preset,
    device: str,
) -> None:
    """Largest allocation of each kind over the first two cycles; warms up, too."""
    for name, guidance in compared.items():
        with peak_of(device) as found:
            running = tokens(backbone, batch, guidance, preset.n_new)
            for _ in range(min(2 * CYCLE + 1, preset.n_new)):
                next(running)
            synchronize(device)
            del running
        if found[0]:
            cell.peak_bytes[name] = found[0]


def measure_decoding(
    cell: Cell | Libraries,
    decoders: Decoders,
    n_new: int,
    device: str,
    until: float,
    *,
    over: str,
) -> dict[str, list[float]]:
    """Rounds until the time is used up, one at least; fills the cell after every round.

    Ratios are over the kind ``over``. Gives the seconds of every cycle by kind.
    """
    first: dict[str, list[float]] = {name: [] for name in decoders}
    cycles: dict[str, list[float]] = {name: [] for name in decoders}
    slowest = 0.0
    while cell.rounds == 0 or time.perf_counter() + slowest < until:
        started = time.perf_counter()
        once, later = one_round(decoders, n_new, device, cell.rounds)
        slowest = max(slowest, time.perf_counter() - started)
        for name in decoders:
            first[name].append(once[name])
            cycles[name] += in_cycles(later[name])
        cell.rounds += 1
        cell.cycles = len(cycles[over])
        for name, found in cycles.items():
            cell.tokens_per_s[name] = CYCLE * cell.batch / statistics.median(found)
            cell.prompt_seconds[name] = statistics.median(first[name])
            cell.ratio[name] = ratio_of(found, cycles[over])
    return cycles


def ratio_of(cycles: list[float], others: list[float]) -> tuple[float, float, float]:
    """Median ratio of cycles measured side by side, and where the middle 90 % lie."""
    return spread([mine / other for mine, other in zip(cycles, others, strict=True)])


def measure_libraries(
    line: Libraries,
    models: "Opened",
    module: ValueModule,
    config: PretrainedConfig,
    preset: Preset,
    device: str,
    until: float,
) -> None:
    """Decode the same prompts with the bare model and through both libraries, side by side."""
    batch = prompts(config, line.batch, preset.n_prompt, device)
    guided = guidances(module)
    n_new = preset.n_new
    decoders: Decoders = {
        PLAIN: partial(plain_tokens, models.plain, batch, n_new),
        LENS: partial(tokens, models.lens, batch, NoGuidance(), n_new),
        NNSIGHT: partial(tokens, models.traced, batch, NoGuidance(), n_new),
        **{
            f"{NNSIGHT}, {kind}": partial(tokens, models.traced, batch, guided[kind], n_new)
            for kind in ("r = 5", "r = 1")
        },
    }
    for begin in decoders.values():  # to warm up
        for _ in zip(range(CYCLE + 1), begin(), strict=False):
            pass
    cycles = measure_decoding(line, decoders, n_new, device, until, over=PLAIN)
    line.guided_ratio = {
        kind: ratio_of(cycles[f"{NNSIGHT}, {kind}"], cycles[NNSIGHT]) for kind in ("r = 5", "r = 1")
    }


@dataclass(frozen=True, eq=False)
class Opened:
    """The same random model three times: bare, and in the hands of either library."""

    plain: PreTrainedModel
    lens: FrozenBackbone
    traced: FrozenBackbone


def open_everywhere(config: PretrainedConfig, device: str, dtype: torch.dtype) -> Opened:
    """Three copies, for a library may leave something in the model that it opens."""
    tokenizer = word_tokenizer(config)
    return Opened(
        random_model(config, device, dtype),
        wrap_model("random", random_model(config, device, dtype), tokenizer),
        trace_model("random", random_model(config, device, dtype), tokenizer),
    )


def measure_training(
    line: Training,
    backbone: TransformerLensBackbone,
    recipe: Recipe,
    config: PretrainedConfig,
    preset: Preset,
    device: str,
    until: float,
) -> None:
    """Steps of stage 3 until the time is used up, five at least, after two to warm up."""
    module = build_module(recipe, device).unfreeze("bridge").train()
    optimizer = torch.optim.AdamW(module.bridge.parameters(), lr=1e-4)
    prompt = prompts(config, line.rows, preset.n_prompt, device)
    response = prompts(config, line.rows, preset.n_response, device)
    rows = TokenisedTargets(prompt, response)
    taken: list[float] = []
    with peak_of(device) as found:
        while len(taken) < 7 or (time.perf_counter() < until and len(taken) < 100):
            started = time.perf_counter()
            loss = bridge_loss(module, backbone, rows, recipe.curriculum)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss.total)
            optimizer.step()
            synchronize(device)
            taken.append(time.perf_counter() - started)
    counted = line.rows * (preset.n_prompt + preset.n_response)
    middle, low, high = spread([counted / seconds for seconds in taken[2:]])
    line.steps, line.tokens_per_s, line.spread = len(taken) - 2, middle, (low, high)
    line.peak_bytes = found[0] or None


# ---------------------------------------------------------------- operations


class _Counter(TorchDispatchMode):
    """Counts tensor operations that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if not func.is_view:
            self.count += 1
        return func(*args, **(kwargs or {}))


def per_step(count: Callable[[Iterator[object]], float], running: Iterator[object]) -> list[float]:
    """Counts of the tokens 1 to 5; the first token, which reads the prompt, is left out."""
    next(running)
    return [count(running) for _ in range(CYCLE)]


def count_operations(running: Iterator[object]) -> float:
    """Operations of the next token."""
    with _Counter() as counter:
        next(running)
    return counter.count


def count_waits(running: Iterator[object]) -> float:
    """How often the next token makes the computer wait for the card."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            next(running)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in seen)


def measure_operations(
    line: Operations,
    backbone: TransformerLensBackbone,
    batch: TokenBatch,
    compared: dict[str, Guidance],
    device: str,
) -> None:
    """Operations and waits of a token that only continues, and of one that refreshes."""
    counting = {"operations": count_operations}
    if device.startswith("cuda"):
        counting["waits"] = count_waits
    for what, count in counting.items():
        for name in ("unguided", "r = 5", "r = 1"):
            found = per_step(count, tokens(backbone, batch, compared[name], CYCLE + 1))
            refreshed = None if name == "unguided" else found[-1]
            getattr(line, what)[name] = (found[0], refreshed)


# ------------------------------------------------------------------- running


class Budget:
    """Divides what is left of the time among what is left to do."""

    def __init__(self, seconds: float, parts: int) -> None:
        self._end = time.perf_counter() + seconds
        self._parts = parts

    def next_until(self) -> float:
        """When the next part should end."""
        left = max(0.0, self._end - time.perf_counter())
        until = time.perf_counter() + left / max(1, self._parts)
        self._parts -= 1
        return until

    @property
    def used_up(self) -> bool:
        """Whether nothing new should be begun."""
        return time.perf_counter() >= self._end


@contextmanager
def guarded(line: Cell | Training | Operations | Libraries) -> Iterator[None]:
    """What goes wrong within is written down, and the run goes on."""
    started = time.perf_counter()
    try:
        yield
    except Exception as error:
        text = str(error).strip().splitlines() or [""]
        line.failure = f"{type(error).__name__}: {text[0][:200]}"
        traceback.print_exc()
    where = f"{type(line).__name__} {line.shape} {getattr(line, 'batch', '')}"
    done = line.failure or "measured"
    print(f"{where}: {done} in {time.perf_counter() - started:.1f} s", flush=True)


def measure_shape(
    results: Results,
    name: str,
    config: PretrainedConfig,
    preset: Preset,
    device: str,
    budget: Budget,
    save: Callable[[], None],
) -> None:
    """All cells of one shape."""
    cells = [Cell(name, rows) for rows in preset.batches]
    training = Training(name, preset.train_rows)
    counted = Operations(name)
    results.cells += cells
    results.training.append(training)
    results.operations.append(counted)
    recipe = recipe_for(config)
    built = None
    with guarded(counted):
        built = build(config, device, DTYPES[results.dtype])
        results.parameters[name] = built.n_parameters
    if built is None:
        for line in (*cells, training):
            line.failure = counted.failure
        save()
        return
    backbone = built.backbone
    # Without guidance first: until then the module takes no memory.
    for cell in cells:
        with guarded(cell):
            batch = prompts(config, cell.batch, preset.n_prompt, device)
            plain: dict[str, Guidance] = {"unguided": NoGuidance()}
            measure_peaks(cell, backbone, batch, plain, preset, device)
    module = build_module(recipe, device)
    results.module_parameters[name] = sum(p.numel() for p in module.parameters())
    compared = guidances(module)
    guided = {kind: compared[kind] for kind in ("r = 5", "r = 1")}
    for cell in cells:
        until = budget.next_until()
        if cell.failure is None and budget.used_up:
            cell.failure = "the time was used up"
        if cell.failure is None:
            with guarded(cell):
                batch = prompts(config, cell.batch, preset.n_prompt, device)
                measure_peaks(cell, backbone, batch, guided, preset, device)
                decoders = guided_decoders(backbone, batch, compared, preset.n_new)
                measure_decoding(cell, decoders, preset.n_new, device, until, over="unguided")
                columns = preset.n_prompt + preset.n_new / 2
                cell.step_bytes = step_bytes(built, cell.batch, columns)
                if results.copy_bytes_per_s:
                    seconds = cell.batch / cell.tokens_per_s["unguided"]
                    cell.bandwidth_share = cell.step_bytes / seconds / results.copy_bytes_per_s
        forget(device)
        save()
    with guarded(counted):
        batch = prompts(config, 1, preset.n_prompt, device)
        measure_operations(counted, backbone, batch, compared, device)
    until = budget.next_until()
    if budget.used_up:
        training.failure = "the time was used up"
    else:
        with guarded(training):
            measure_training(training, backbone, recipe, config, preset, device, until)
    save()


def measure_shape_in_libraries(
    lines: Sequence[Libraries],
    config: PretrainedConfig,
    preset: Preset,
    device: str,
    dtype: torch.dtype,
    budget: Budget,
    save: Callable[[], None],
) -> None:
    """All batches of one shape through the libraries."""
    models = None
    for line in lines:
        until = budget.next_until()
        if budget.used_up:
            line.failure = "the time was used up"
            continue
        with guarded(line):
            models = models or open_everywhere(config, device, dtype)
            module = build_module(recipe_for(config), device)
            measure_libraries(line, models, module, config, preset, device, until)
        forget(device)
    save()


def device_name(device: str) -> str:
    """What the device calls itself."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(device))
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="Folder for gpu.json and gpu.md.")],
    device: Annotated[str, typer.Option(help="Torch device.")] = "cuda",
    preset: Annotated[str, typer.Option(help="paper or tiny.")] = "paper",
    dtype: Annotated[str, typer.Option(help="Number type of the backbone.")] = "bfloat16",
    seconds: Annotated[float, typer.Option(help="Time to fill, about.")] = 150.0,
    shapes: Annotated[str, typer.Option(help="Some of the shapes, comma-separated.")] = "",
) -> None:
    """Measure everything; results are written after every cell."""
    begun = time.perf_counter()
    torch.set_num_threads(1)
    sizes = PRESETS[preset]()
    wanted = [name for name in sizes.shapes if not shapes or name in shapes.split(",")]
    results = Results(
        device=device_name(device),
        preset=preset,
        dtype=dtype,
        n_prompt=sizes.n_prompt,
        n_new=sizes.n_new,
        n_response=sizes.n_response,
        provenance={**provenance(device), "packages": {p: version(p) for p in PACKAGES}},
        libraries=[Libraries(name, rows) for name in wanted for rows in sizes.batches],
    )
    out.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        results.seconds = time.perf_counter() - begun
        write_json(out / "gpu.json", asdict(results))
        (out / "gpu.md").write_text(page_section(asdict(results)) + "\n", encoding="utf-8")

    budget = Budget(seconds, len(wanted) * (2 * len(sizes.batches) + 1))
    try:
        results.copy_bytes_per_s = copy_bandwidth(device, sizes.copied)
    except RuntimeError:
        traceback.print_exc()
    forget(device)
    for name in wanted:
        measure_shape(results, name, sizes.shapes[name], sizes, device, budget, save)
        forget(device)
    # After everything else: importing nnsight patches torch.
    for name in wanted:
        lines = [line for line in results.libraries if line.shape == name]
        config = sizes.shapes[name]
        measure_shape_in_libraries(lines, config, sizes, device, DTYPES[dtype], budget, save)
        forget(device)
    print((out / "gpu.md").read_text(encoding="utf-8"))


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="gpu.json of a run.")],
    page: Annotated[Path, typer.Option(help="The page with the markers.")] = ROOT
    / "docs"
    / "gpu.md",
) -> None:
    """Fill the tables of the page and keep the numbers beside it."""
    found = json.loads(results.read_text(encoding="utf-8"))
    fill_section(page, SECTION, page_section(found))
    write_json(page.parent / "results" / "gpu.json", found)


@app.command()
def operations(
    preset: Annotated[str, typer.Option(help="tiny, or deep: 28 narrow blocks.")] = "tiny",
) -> None:
    """Count the operations of a token on the CPU; numbers that need no graphics card."""
    torch.set_num_threads(1)
    shape = tiny().shapes["tiny"]
    if preset == "deep":
        shape.num_hidden_layers = 28
    backbone = build(shape, "cpu", torch.float32).backbone
    line = Operations(preset)
    compared = guidances(build_module(recipe_for(shape), "cpu"))
    measure_operations(line, backbone, prompts(shape, 1, 8, "cpu"), compared, "cpu")
    print(json.dumps(asdict(line)))


# -------------------------------------------------------------------- tables


def page_section(found: dict[str, object]) -> str:
    """The Markdown of a run: device, and a table of decoding, operations and training each."""
    results: dict = found  # type: ignore[type-arg]
    copied = results["copy_bytes_per_s"]
    lines = [
        f"Device: **{results['device']}**; backbone {results['dtype']}, value module float32; "
        f"prompt {results['n_prompt']}, new tokens {results['n_new']}; "
        + (f"copy {copied / 1e9:.0f} GB/s; " if copied else "")
        + f"{results['seconds']:.0f} s in all.",
        "",
        _measured_by(results),
        "",
        "Decoding. Time ratios: median over cycles of 5 tokens [middle 90 % of cycles].",
        "",
        "| shape | batch | tokens/s unguided | tokens/s r = 5 | tokens/s r = 1 | time r = 5 | "
        "time r = 1 | unguided twice | peak memory r = 5 | bandwidth share | rounds, cycles |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_cell_row(cell) for cell in results["cells"]]
    lines += [
        "",
        "Libraries: the bare model, the unguided decoder through either library, and guidance "
        "through nnsight. Time ratios as above.",
        "",
        f"| shape | batch | tokens/s {PLAIN} | {LENS} | nnsight | nnsight, r = 5 | "
        f"time {LENS} over {PLAIN} | nnsight over {PLAIN} | r = 5 over unguided, nnsight | "
        "r = 1 over unguided, nnsight |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_library_row(line) for line in _libraries(results)]
    lines += [
        "",
        "Operations a token that are no views, and waits for the device: continuing / refreshing.",
        "",
        "| shape | operations unguided | r = 5 | r = 1 | waits unguided | r = 5 | r = 1 |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_operations_row(line) for line in results["operations"]]
    lines += [
        "",
        f"Stage 3, prompts of {results['n_prompt']} and responses of {results['n_response']} "
        "tokens, [middle 90 % of steps].",
        "",
        "| shape | rows | tokens/s | peak memory | steps |",
        "|---|---|---|---|---|",
    ]
    lines += [_training_row(line) for line in results["training"]]
    failed = [
        f"- {line['shape']}{', batch ' + str(line['batch']) if 'batch' in line else ''}{what}: "
        f"{line['failure']}"
        for group, what in (
            ("cells", ""),
            ("operations", ""),
            ("training", ", training"),
            ("libraries", ", libraries"),
        )
        for line in results.get(group, ())
        if line["failure"]
    ]
    return "\n".join(lines + (["", "Not measured:", "", *failed] if failed else []))


def _measured_by(results: dict) -> str:  # type: ignore[type-arg]
    """Revision and packages that measured; runs before they were recorded say so."""
    made = results.get("provenance", {})
    git = made.get("git")
    revision = "not recorded"
    if git:
        revision = f"`{git['revision'][:10]}`{', with changes' if git['dirty'] else ''}"
    packages = made.get("packages") or results.get("versions", {})
    named = [f"{name} {packages[name]}" for name in PACKAGES if packages.get(name)]
    lacking = [name for name in PACKAGES if not packages.get(name)]
    text = f"Measured by: revision {revision}; {', '.join(named)}"
    return f"{text}; {' and '.join(lacking)} not recorded." if lacking else f"{text}."


def _libraries(results: dict) -> list[dict]:  # type: ignore[type-arg]
    """The rows on libraries; of a run before they were measured, rows without numbers."""
    found: list[dict] = results.get("libraries") or [  # type: ignore[type-arg]
        asdict(Libraries(cell["shape"], cell["batch"])) for cell in results["cells"]
    ]
    return found


def _library_row(line: dict) -> str:  # type: ignore[type-arg]
    speed = line["tokens_per_s"]
    speeds = [f"{speed[kind]:.1f}" if kind in speed else "–" for kind in LIBRARIES[:4]]
    ratios = [_spread(line["ratio"], kind) for kind in (LENS, NNSIGHT)]
    ratios += [_spread(line["guided_ratio"], kind) for kind in ("r = 5", "r = 1")]
    return "| " + " | ".join([line["shape"], str(line["batch"]), *speeds, *ratios]) + " |"


def _spread(ratios: dict[str, list[float]], kind: str) -> str:
    if kind not in ratios:
        return "–"
    middle, low, high = ratios[kind]
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def _cell_row(cell: dict) -> str:  # type: ignore[type-arg]
    speed, peak = cell["tokens_per_s"], cell["peak_bytes"]
    memory = f"{peak['r = 5'] / peak['unguided']:.4f}" if len(peak) >= 2 else "–"
    share = cell["bandwidth_share"]
    speeds = [
        f"{speed[kind]:.1f}" if kind in speed else "–" for kind in KINDS if "again" not in kind
    ]
    ratios = [_spread(cell["ratio"], kind) for kind in ("r = 5", "r = 1", "unguided again")]
    parts = [
        cell["shape"], str(cell["batch"]), *speeds, *ratios, memory,
        "–" if share is None else f"{share:.3f}", f"{cell['rounds']}, {cell['cycles']}",
    ]  # fmt: skip
    return "| " + " | ".join(parts) + " |"


def _operations_row(line: dict) -> str:  # type: ignore[type-arg]
    def shown(counts: dict[str, list[float | None]], kind: str) -> str:
        if kind not in counts:
            return "–"
        return " / ".join(f"{count:.0f}" for count in counts[kind] if count is not None)

    kinds = ("unguided", "r = 5", "r = 1")
    parts = [shown(line[what], kind) for what in ("operations", "waits") for kind in kinds]
    return "| " + " | ".join([line["shape"], *parts]) + " |"


def _training_row(line: dict) -> str:  # type: ignore[type-arg]
    speed, peak = line["tokens_per_s"], line["peak_bytes"]
    shown = (
        "–" if speed is None else f"{speed:.0f} [{line['spread'][0]:.0f}, {line['spread'][1]:.0f}]"
    )
    memory = f"{peak / 2**30:.2f} GiB" if peak else "–"
    return f"| {line['shape']} | {line['rows']} | {shown} | {memory} | {line['steps']} |"


if __name__ == "__main__":
    run_script(app)
