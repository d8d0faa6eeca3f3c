"""Triggers: reading the value state z that decides, and is corrected.

    prompt-path  z = R(SA(p(h)))          published code: the prompt pathway on the trigger token,
                                          or on the whole prompt (context = "prompt")
    both-paths   z = conditional(h_prompt, [h_v])   the paper's formula: the trigger token is read
                                          as a one-token response to the prompt
    windowed     tokens = GELU(W [standardised residuals of the configured layers])
                 tokens + GELU(Conv1d(tokens))      local context, so that a verb meets its object
                 n learned queries pool the tokens by attention
                 z = two-layer readout of the pooled vectors

In mode "prompt" the trigger token is the prompt's last one; in mode "current" it is the newest
token of the generation, so the bridge follows it. Before the first generated token both agree.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import assert_never

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from workbench.errors import ConfigError
from workbench.svgt.config import SVGTConfig
from workbench.svgt.value_space import ValueEncoder, blank_padding, last_valid, require_tokens

PromptStates = Mapping[int, Float[Tensor, "batch seq d_model"]]
TokenStates = Mapping[int, Float[Tensor, "batch d_model"]]

LAST_TOKENS = 3


class Trigger(nn.Module, ABC):
    """What every kind of trigger does."""

    @abstractmethod
    def forward(
        self,
        encoder: ValueEncoder,
        prompt: PromptStates,
        prompt_mask: Bool[Tensor, "batch seq"],
        current: TokenStates | None = None,
    ) -> Float[Tensor, "batch d_value"]:
        """Value state of each row; `encoder` is shared with the module's other pathways."""


class TokenTrigger(Trigger):
    """Reads one trigger token with the value encoder; has no weights of its own."""

    def __init__(self, config: SVGTConfig) -> None:
        """Note which layer and token to read."""
        super().__init__()
        (self.layer,) = config.trigger_layers
        self.follows = config.trigger.mode == "current"
        self.reads_prompt = config.trigger.context == "prompt"
        self.conditional = config.trigger.kind == "both-paths"

    def forward(
        self,
        encoder: ValueEncoder,
        prompt: PromptStates,
        prompt_mask: Bool[Tensor, "batch seq"],
        current: TokenStates | None = None,
    ) -> Float[Tensor, "batch d_value"]:
        """Value state of each row."""
        states = prompt[self.layer]
        token = current[self.layer] if self.follows and current is not None else None
        if self.reads_prompt:
            return encoder.prompt_path(*_append(states, prompt_mask, token))
        if token is None:
            require_tokens(prompt_mask, "prompt")
            token = last_valid(states, prompt_mask)
        one = torch.ones(len(token), 1, dtype=torch.bool, device=token.device)
        if self.conditional:
            return encoder.conditional(states, token[:, None, :], prompt_mask, one)
        return encoder.prompt_path(token[:, None, :], one)


def _append(
    states: Float[Tensor, "batch seq d_model"],
    mask: Bool[Tensor, "batch seq"],
    token: Float[Tensor, "batch d_model"] | None,
) -> tuple[Float[Tensor, "batch context d_model"], Bool[Tensor, "batch context"]]:
    if token is None:
        return states, mask
    return torch.cat([states, token[:, None, :]], dim=1), functional.pad(mask, (0, 1), value=True)


class WindowedTrigger(Trigger):
    """Reads all prompt tokens at several layers through a window and learned pooling queries."""

    mean: Float[Tensor, "layer d_model"]
    std: Float[Tensor, "layer d_model"]

    def __init__(self, config: SVGTConfig) -> None:
        """Build an untrained trigger that does not standardise; see `fit_standardiser`."""
        super().__init__()
        options = config.trigger
        self.layers = config.trigger_layers
        self.p_token, self.p_last3, self.noise = options.p_token, options.p_last3, options.noise
        shape = (len(self.layers), config.d_model)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.embed = nn.Linear(len(self.layers) * config.d_model, options.width)
        self.window = nn.Conv1d(
            options.width, options.width, options.window, padding=options.window // 2
        )
        self.queries = nn.Parameter(
            torch.randn(options.n_heads, options.width) * options.width**-0.5
        )
        self.hidden = nn.Linear(options.n_heads * options.width, config.d_value)
        self.out = nn.Linear(config.d_value, config.d_value)

    def fit_standardiser(
        self, mean: Float[Tensor, "layer d_model"], std: Float[Tensor, "layer d_model"]
    ) -> None:
        """Set the mean and standard deviation of each layer read, in the order of its layers.

        Raises:
            ConfigError: A standard deviation is not positive, or a value is not finite.
        """
        if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
            raise ConfigError(
                "the standardiser needs finite means and positive standard deviations; "
                "a coordinate that never varies should get the standard deviation 1"
            )
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(
        self,
        encoder: ValueEncoder,
        prompt: PromptStates,
        prompt_mask: Bool[Tensor, "batch seq"],
        current: TokenStates | None = None,
    ) -> Float[Tensor, "batch d_value"]:
        """Value state of each row; neither the encoder nor the current token is read."""
        require_tokens(prompt_mask, "prompt")
        mask = self._drop_tokens(prompt_mask) if self.training else prompt_mask
        tokens = self._window(self._embed(prompt, prompt_mask), mask)
        pooled = self._pool(tokens, mask)
        z: Tensor = self.out(functional.gelu(self.hidden(rearrange(pooled, "b h w -> b (h w)"))))
        return z

    def _embed(
        self, prompt: PromptStates, mask: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq width"]:
        standardised = [
            (blank_padding(prompt[layer], mask) - self.mean[index]) / self.std[index]
            for index, layer in enumerate(self.layers)
        ]
        features = torch.cat(standardised, dim=-1)
        if self.training and self.noise > 0:
            features = features + self.noise * torch.randn(features.shape).to(features)
        return functional.gelu(self.embed(features))

    def _window(
        self, tokens: Float[Tensor, "batch seq width"], mask: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq width"]:
        # Hidden tokens become what the convolution sees beyond either end: zeros.
        visible = torch.where(mask[:, :, None], tokens, 0.0)
        context = rearrange(self.window(rearrange(visible, "b s w -> b w s")), "b w s -> b s w")
        return visible + functional.gelu(context)

    def _pool(
        self, tokens: Float[Tensor, "batch seq width"], mask: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch head width"]:
        weights = einsum(self.queries, tokens, "h w, b s w -> b h s")
        weights = weights.masked_fill(~mask[:, None, :], float("-inf")).softmax(dim=-1)
        return einsum(weights, tokens, "b h s, b s w -> b h w")

    def _drop_tokens(self, mask: Bool[Tensor, "batch seq"]) -> Bool[Tensor, "batch seq"]:
        """Hide tokens at random (the CPU's global generator); a row left empty is restored."""
        hidden = torch.rand(mask.shape).to(mask.device) < self.p_token
        from_end = mask.flip(1).cumsum(1).flip(1)
        row = torch.rand(len(mask), 1).to(mask.device) < self.p_last3
        kept = mask & ~hidden & ~(row & (from_end <= LAST_TOKENS))
        return torch.where(kept.any(dim=1, keepdim=True), kept, mask)


def build_trigger(config: SVGTConfig) -> Trigger:
    """The trigger that the configuration names."""
    kind = config.trigger.kind
    if kind == "windowed":
        return WindowedTrigger(config)
    if kind == "prompt-path" or kind == "both-paths":
        return TokenTrigger(config)
    assert_never(kind)
