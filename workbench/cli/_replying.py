"""The work behind ``workbench generate``: prompts in, replies out, streamed or as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from torch import Tensor

from workbench.backbone import Backbone, load_backbone
from workbench.backbone.frozen import TRANSFORMER_LENS
from workbench.config import to_mapping
from workbench.errors import CheckpointError, DataError
from workbench.guidance import (
    Generation,
    Guidance,
    Sampling,
    SVGTBridge,
    TraceRequest,
    generate,
    stream,
)
from workbench.guidance.registry import (
    DEFAULT_CONFIG,
    GuidanceOptions,
    GuidanceSpec,
    load_guidance,
    load_module,
    parse_guidance,
    shipped_configs,
)
from workbench.svgt import ValueModule

_BATCH = 64


def read_prompts(prompt: str | None, file: Path | None) -> list[str]:
    """The prompts asked for: one, or the lines of a file that are not empty.

    Raises:
        DataError: None or both ways of giving them; or the file is missing, empty or not UTF-8.
    """
    if prompt is not None and file is None:
        return [prompt]
    if file is None:
        raise DataError("name what to ask: --prompt TEXT or --file PATH")
    if prompt is not None:
        raise DataError("--prompt and --file exclude each other: give one of them")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8 text (byte {error.start}); save the file as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {file} ({error.strerror or error})") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise DataError(f"{file} holds no prompt; write one a line")
    return found


@dataclass(frozen=True, eq=False)
class Replier:
    """A loaded backbone, how it is steered, and how its tokens are chosen."""

    backbone: Backbone
    spec: GuidanceSpec
    guidance: Guidance
    sampling: Sampling
    max_new_tokens: int
    seed: int
    generator: torch.Generator

    @classmethod
    def load(
        cls,
        backbone: str,
        spec: GuidanceSpec,
        options: GuidanceOptions,
        sampling: Sampling,
        max_new_tokens: int,
        seed: int,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        backend: str = TRANSFORMER_LENS,
    ) -> "Replier":
        """Load the backbone, then the guidance for it.

        Raises:
            CheckpointError: No such guidance; where none ships, how to do without is said, too.
        """
        model = load_backbone(backbone, device=device, dtype=dtype, backend=backend)
        try:
            guidance = load_guidance(spec, model, options)
        except CheckpointError as error:
            if spec != parse_guidance("svgt") or shipped_configs(model):
                raise
            raise CheckpointError(
                f"{error}; --guidance none replies with the plain model"
            ) from error
        return cls(
            backbone=model,
            spec=spec,
            guidance=guidance,
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            seed=seed,
            generator=torch.Generator().manual_seed(seed),
        )

    def reply(self, prompts: Sequence[str], trace: TraceRequest) -> list[Generation]:
        """Replies to a batch of prompts."""
        return generate(
            self.backbone,
            prompts,
            self.guidance,
            max_new_tokens=self.max_new_tokens,
            sampling=self.sampling,
            generator=self.generator,
            trace=trace,
        )


def stream_reply(replier: Replier, prompt: str) -> None:
    """Print one reply as it comes."""
    ids: list[int] = []
    shown = ""
    for step in stream(
        replier.backbone,
        [prompt],
        replier.guidance,
        max_new_tokens=replier.max_new_tokens,
        sampling=replier.sampling,
        generator=replier.generator,
    ):
        ids.append(int(step.ids[0]))
        text = replier.backbone.decode([ids])[0]
        if text.endswith("\ufffd"):
            continue  # half of a character: its other bytes are still to come
        typer.echo(text[len(shown) :], nl=False)
        shown = text
    typer.echo()


def print_replies(replier: Replier, prompts: Sequence[str], *, as_json: bool) -> None:
    """Print every reply, as text below its prompt or as one JSON object a line."""
    observer = _observer(replier) if as_json else None
    trace = TraceRequest()
    if as_json:
        trace = TraceRequest(observer=observer, bridge=True, slot_attention="mean")
    for start in range(0, len(prompts), _BATCH):
        batch = prompts[start : start + _BATCH]
        for prompt, made in zip(batch, replier.reply(batch, trace), strict=True):
            if as_json:
                typer.echo(
                    json.dumps(_as_json(replier, prompt, made, observer), ensure_ascii=False)
                )
            else:
                typer.echo(f"> {prompt}\n{made.text}\n")


def _observer(replier: Replier) -> ValueModule | None:
    """The value module that scores the reply: its own, or for the plain model the default one."""
    guidance = replier.guidance
    if isinstance(guidance, SVGTBridge) and isinstance(guidance.writer, ValueModule):
        return guidance.writer
    if DEFAULT_CONFIG in shipped_configs(replier.backbone):
        return load_module(DEFAULT_CONFIG, replier.backbone)
    return None


def _as_json(
    replier: Replier, prompt: str, made: Generation, observer: ValueModule | None
) -> dict[str, object]:
    trace = made.trace
    return {
        "backbone": replier.backbone.name,
        "guidance": replier.spec.family,
        "config": replier.spec.config,
        "prompt": prompt,
        "text": made.text,
        "ids": list(made.ids),
        "tokens": replier.backbone.token_strings(made.ids),
        "finish": made.finish,
        "scored_by": None if observer is None else observer.config.name,
        "trace": {
            "harm_score": _listed(trace.harm_score),
            "trigger_score": _listed(trace.trigger_score),
            "correction_norm": _listed(trace.correction_norm),
            "open": _listed(trace.open),
            "slot_attention": _listed(trace.slot_attention),
        },
        "sampling": to_mapping(replier.sampling),
        "seed": replier.seed,
    }


def _listed(values: Tensor | None) -> list[object] | None:
    return None if values is None else values.tolist()
