"""The size that is told is the size on disk, and half precision rounds as it says."""

from pathlib import Path

import pytest
import torch

from probes.collection import collect, estimate_size
from probes.collection.collect import plan_size
from probes.collection.sites import SiteArray
from probes.collection.size import (
    ROUND_OFF,
    STORED_TYPES,
    SizeEstimate,
    StoredType,
    in_words,
    stored_type,
)
from workbench.backbone import TransformerLensBackbone, load_backbone
from workbench.data.example import Example, as_conversation
from workbench.errors import ConfigError

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def gpt2() -> TransformerLensBackbone:
    return load_backbone(FIXTURES / "tiny-gpt2")


EXAMPLES = [
    Example(f"e{n}", as_conversation(f"t{n} t{n + 1}"), " ".join(["t5"] * (n + 1)), group=str(n))
    for n in range(6)
]


def test_bytes_are_rows_times_layers_times_width() -> None:
    arrays = [SiteArray("prompt_last", (10, 3, 64)), SiteArray("response_tokens", (70, 3, 64))]
    size = estimate_size(arrays)
    assert size.rows == {"prompt_last": 10, "response_tokens": 70}
    assert size.bytes == {"prompt_last": 10 * 3 * 64 * 4, "response_tokens": 70 * 3 * 64 * 4}
    assert estimate_size(arrays, "bfloat16").total * 2 == size.total == 80 * 3 * 64 * 4
    assert size.needed > size.total
    assert "61.44 kB as float32: prompt_last (10 rows), response_tokens (70 rows)" in str(size)
    assert [stored_type(name) for name in STORED_TYPES] == list(STORED_TYPES)
    with pytest.raises(ConfigError, match="float8: choose from float32, float16, bfloat16"):
        stored_type("float8")


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [(12, "12 bytes"), (1500, "1.50 kB"), (2_000_000, "2.00 MB"), (3_210_000_000, "3.21 GB")],
)
def test_bytes_in_words(n_bytes: int, words: str) -> None:
    assert in_words(n_bytes) == words


@pytest.mark.parametrize("dtype", STORED_TYPES)
def test_the_files_are_as_large_as_was_said(
    gpt2: TransformerLensBackbone, tmp_path: Path, dtype: StoredType
) -> None:
    told: list[SizeEstimate] = []
    asked = {"sites": ("prompt_last", "response_tokens"), "layers": (-1, 2)}
    store = collect(gpt2, EXAMPLES, tmp_path, dtype=dtype, on_size=told.append, **asked)  # type: ignore[arg-type]
    assert told == [plan_size(gpt2, EXAMPLES, dtype=dtype, **asked)]  # type: ignore[arg-type]
    n_tokens = int(store.examples["n_response"].sum())
    assert told[0].rows == {"prompt_last": 6, "response_tokens": n_tokens}
    header = 128  # of every .npy file
    for site, n_bytes in told[0].bytes.items():
        assert (tmp_path / f"{site}.npy").stat().st_size == n_bytes + header


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_states_come_back_as_float32_within_the_round_off(
    gpt2: TransformerLensBackbone, tmp_path: Path, dtype: StoredType
) -> None:
    sites = ("prompt_last", "response_tokens")
    whole = collect(gpt2, EXAMPLES, tmp_path / "whole", sites=sites)
    half = collect(gpt2, EXAMPLES, tmp_path / "half", sites=sites, dtype=dtype)
    assert half.dtype == dtype
    rounded = getattr(torch, dtype)
    for read in (
        lambda store: store.all_layers("prompt_last"),
        lambda store: store.tokens(1).tokens,
        lambda store: store.at_step(1, torch.tensor([1, 4])),
    ):
        ours, exact = read(half), read(whole)
        assert ours.dtype == torch.float32
        assert torch.equal(ours, exact.to(rounded).float())  # rounded once, to the nearest
        share = ((ours - exact).abs() / exact.abs())[exact.abs() > 1e-3]
        assert ROUND_OFF[dtype] / 2 < float(share.max()) <= ROUND_OFF[dtype]


def test_a_killed_half_precision_collection_goes_on_to_the_same_files(
    gpt2: TransformerLensBackbone, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done >= 4:
            raise Killed

    sites = ("response_tokens",)
    with pytest.raises(Killed):
        collect(
            gpt2, EXAMPLES, tmp_path / "cut", sites=sites, dtype="bfloat16", batch_size=2,
            on_progress=kill,
        )  # fmt: skip
    for name in ("cut", "whole"):
        collect(gpt2, EXAMPLES, tmp_path / name, sites=sites, dtype="bfloat16", batch_size=2)
    files = [(tmp_path / name / "response_tokens.npy").read_bytes() for name in ("cut", "whole")]
    assert files[0] == files[1]
