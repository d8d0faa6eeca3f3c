"""Remote models: nnsight's simulation gives the local numbers; what cannot be had is refused."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from workbench.backbone import FrozenBackbone, TokenBatch

FOLDER = Path(__file__).parents[1] / "fixtures" / "tiny-llama"
KEY = "a-key-that-must-not-travel"


@pytest.fixture(scope="module")
def local() -> "FrozenBackbone":
    from workbench.backbone import load_backbone

    return load_backbone(FOLDER, backend="nnsight")


@pytest.fixture(scope="module")
def simulated() -> "FrozenBackbone":
    from workbench.backbone import load_backbone

    return load_backbone(FOLDER, backend="nnsight", remote="local")


@pytest.fixture
def batch(local: "FrozenBackbone") -> object:
    return local.encode(["t1 t2 t3", "t4 t5 t6 t7"])


def measured(model: "FrozenBackbone", batch: "TokenBatch") -> dict[str, Tensor]:
    """Captured before and after an edit that closes over a tensor."""
    shift = torch.linspace(-1, 1, model.d_model)
    with (
        model.capture([-1, 1]) as before,
        model.overwrite(1, lambda residual: residual + shift),
        model.capture([1, 2]) as after,
    ):
        logits = model.logits(batch)
    assert before.firings == {-1: 1, 1: 1}
    states = model.read_states(batch, [-1, 0, 3])
    return {
        "plain": model.logits(batch),
        "edited": logits,
        "before": before[1],
        "after": after[1],
        "above": after[2],
        "embedded": before[-1],
        **{f"states {layer}": state for layer, state in states.items()},
    }


def test_the_simulation_equals_the_local_model(
    local: "FrozenBackbone", simulated: "FrozenBackbone", batch: "TokenBatch"
) -> None:
    expected, found = measured(local, batch), measured(simulated, batch)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert (expected["after"] - expected["before"]).abs().max() > 0.5


class Server:
    """Stands for NDIF: another process's model, which a request reaches as bytes alone."""

    def __init__(self) -> None:
        from nnsight import TransformersModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(FOLDER)
        tokenizer = AutoTokenizer.from_pretrained(FOLDER)
        self.model = TransformersModel(model, task="text-generation", tokenizer=tokenizer)
        self.keys: list[str] = []
        self.payloads: list[bytes] = []

    def answer(self, client: object, request: object, tracer: object) -> dict[str, object]:
        import zstandard
        from nnsight.schema.request import RequestModel
        from nnsight.tracing.tracer import dec, inc

        blob = client._serialize(tracer)  # type: ignore[attr-defined]
        self.keys.append(client.api_key)  # type: ignore[attr-defined]
        self.payloads.append(zstandard.ZstdDecompressor().decompress(blob))
        self.payloads.append(request.metadata().encode())  # type: ignore[attr-defined]
        restored = RequestModel.deserialize(
            blob, self.model._remoteable_persistent_objects(), compress=True
        )
        inc()
        try:
            restored.execute(restored.info.code)
        finally:
            dec()
        return {"found": restored.info.frame.f_locals["found"]}


@pytest.fixture
def weightless(monkeypatch: pytest.MonkeyPatch) -> "FrozenBackbone":
    """A model that only speaks for another: no weights, as a real remote one."""
    from nnsight.modeling import huggingface
    from transformers import AutoConfig

    from workbench.backbone.loading import _load_remote

    monkeypatch.setitem(huggingface._ID_CACHE, str(FOLDER), "org/tiny")
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    config = AutoConfig.from_pretrained(FOLDER)
    return _load_remote("org/tiny", str(FOLDER), config, torch.float32, None, simulated=False)


def test_a_request_carries_what_a_server_needs_and_no_key(
    local: "FrozenBackbone",
    weightless: "FrozenBackbone",
    batch: "TokenBatch",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from nnsight.intervention.backends.remote import RemoteBackend

    server = Server()
    monkeypatch.setattr(RemoteBackend, "request", lambda *given: server.answer(*given))
    assert all(weight.is_meta for weight in weightless._weights.values())
    expected, found = measured(local, batch), measured(weightless, batch)
    for name, tensor in expected.items():  # a server's attention need not be the eager one
        difference = (found[name] - tensor)[batch.mask].abs().max()
        assert difference < 1e-5 * tensor.abs().max(), name
    assert set(server.keys) == {KEY}
    assert all(KEY.encode() not in payload for payload in server.payloads)
    assert KEY not in repr(vars(weightless))


def test_no_network(
    weightless: "FrozenBackbone", batch: "TokenBatch", monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
    from nnsight.schema.config import CONFIG

    from workbench.errors import BackboneError

    monkeypatch.setattr(CONFIG.API, "HOST", "http://127.0.0.1:9")
    with pytest.raises(BackboneError, match=r"cannot be reached for org/tiny.*NDIF_HOST"):
        weightless.logits(batch)

    def refused(*_: object) -> None:
        raise RemoteError(f"key {KEY} is not known")

    monkeypatch.setattr(RemoteBackend, "request", refused)
    with pytest.raises(BackboneError, match=r"NDIF did not run org/tiny: key \*\*\* is not known"):
        weightless.logits(batch)


def test_no_key_no_hub_id_no_nnsight(monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.backbone import load_backbone
    from workbench.errors import BackboneError

    monkeypatch.delenv("NDIF_API_KEY", raising=False)
    with pytest.raises(BackboneError, match="set the environment variable NDIF_API_KEY"):
        load_backbone("org/model", backend="nnsight", remote=True)
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    with pytest.raises(BackboneError, match="NDIF runs models of the hub"):
        load_backbone(FOLDER, backend="nnsight", remote=True)
    with pytest.raises(BackboneError, match="use the backend nnsight"):
        load_backbone(FOLDER, remote=True)


def test_proofs(simulated: "FrozenBackbone", batch: "TokenBatch") -> None:
    from workbench.errors import BackboneError, HookError, NonFiniteError

    for edit in (lambda r: r[:, :1], lambda r: r.double()):
        with pytest.raises(HookError, match="must return"), simulated.overwrite(1, edit):
            simulated.logits(batch)
    with pytest.raises(NonFiniteError, match="NaN"), simulated.overwrite(1, lambda r: r / 0):
        simulated.logits(batch)
    for context in (simulated.capture([1]), simulated.overwrite(1, lambda r: r)):
        with pytest.raises(HookError, match="did not fire"), context:
            pass
    with pytest.raises(HookError, match="no layer 9"), simulated.overwrite(9, lambda r: r):
        pass
    lock = threading.Lock()
    with (
        pytest.raises(BackboneError, match="cannot travel"),
        simulated.overwrite(1, lambda r: (lock, r)[1]),
    ):
        simulated.logits(batch)
    assert not any(place.entries for place in simulated._sites.residual.values())


@pytest.mark.parametrize(
    ("what", "ask"),
    [
        ("key-value cache", lambda m: m.new_cache(8)),
        ("slots", lambda m: m.overwrite(1, lambda r: r, rows=3).__enter__()),
        ("slots", lambda m: m.hide_keys([0], lambda: torch.ones(1, 1) > 0).__enter__()),
        ("scores", lambda m: m.edit_scores([0], lambda s, _: s).__enter__()),
        ("patterns", lambda m: m.capture_patterns([0])),
        ("values of block 0", lambda m: m.capture_values([0])),
        ("attention of block 0", lambda m: m.capture_attention([0])),
        ("mixes of block 0", lambda m: m.overwrite_mixes(0, lambda x: x).__enter__()),
        ("output map", lambda m: m.output_map(0)),
        ("readout", lambda m: m.logit_direction(torch.ones(1, m.d_model), torch.tensor([1]))),
        ("linear maps", lambda m: m.linear_maps),
        ("adapted weights", lambda m: m.adapted({})),
        ("fingerprint", lambda m: m.weights_hash),
    ],
)
def test_what_is_refused(
    simulated: "FrozenBackbone", what: str, ask: Callable[["FrozenBackbone"], object]
) -> None:
    from workbench.errors import BackboneError

    with pytest.raises(BackboneError, match=f"a remote model cannot give .*{what}"):
        ask(simulated)
