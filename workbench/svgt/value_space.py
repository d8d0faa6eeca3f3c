"""The value space: encoders that read harm out of residual states, and the discriminator.

From the SVGT paper (arXiv 2605.11712) and its published code. With response states h_r and prompt
states h_p of width d_model, and SA a stack of post-norm encoder layers of width d_value:

    u = GELU(W_r h_r + b_r)                     response projection
    p = GELU(W_p h_p + b_p)                     prompt projection
    unconditional   z = R(SA(u))
    conditional     z = R(SA(LN(u) + lambda * LN_c(CrossAttn(q = LN(u), k = v = LN(p)))))
    prompt pathway  z = R(SA(p))
    score           s = D(z);  s > 0 means harmful, sigmoid(s) is the probability of harm

LN has no learned scale, LN_c has one, lambda is learned and starts at 3. The readout R takes the
last valid token. Every row is computed alone, and padding on either side changes no score.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from workbench.errors import TokenError
from workbench.svgt.attention import EncoderLayer, MultiHeadAttention
from workbench.svgt.config import SVGTConfig

READOUT_LAYERS = 2
CROSS_SCALE_INIT = 3.0
PROMPT_PROJECTION_GAIN = 0.1


def require_tokens(mask: Bool[Tensor, "batch seq"], what: str) -> None:
    """Raise TokenError naming the first row of `mask` that holds no valid token."""
    filled = mask.any(dim=1)
    if not bool(filled.all()):
        empty = (~filled).nonzero()
        raise TokenError(f"row {int(empty[0])} of the {what} holds no token; give at least one")


def last_valid(
    states: Float[Tensor, "batch seq width"], mask: Bool[Tensor, "batch seq"]
) -> Float[Tensor, "batch width"]:
    """The state of each row's last valid token, wherever the padding stands."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * positions).amax(dim=1)
    return states[torch.arange(len(states), device=states.device), last]


def blank_padding(
    states: Float[Tensor, "batch seq width"], mask: Bool[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq width"]:
    """The states in float32, zero at padding: whatever a backbone leaves there, NaN included."""
    return torch.where(mask[:, :, None], states.float(), 0.0)


class LastTokenMLP(nn.Module):
    """Readout of small backbones: Linear, GELU, dropout, LayerNorm."""

    def __init__(self, d_value: int, dropout: float) -> None:
        """Build an untrained readout."""
        super().__init__()
        self.linear = nn.Linear(d_value, d_value)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(d_value)

    def forward(self, token: Float[Tensor, "batch d_value"]) -> Float[Tensor, "batch d_value"]:
        """Map the summary vector of each row to z."""
        z: Tensor = self.norm(self.dropout(functional.gelu(self.linear(token))))
        return z


class LastTokenEncoder(nn.Module):
    """Readout of large backbones: encoder layers on the one summary vector of each row.

    Each row is its own sequence of one token, so rows never attend to each other.
    """

    def __init__(self, d_value: int, n_heads: int, dropout: float) -> None:
        """Build an untrained readout."""
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(d_value, n_heads, dropout) for _ in range(READOUT_LAYERS)
        )

    def forward(self, token: Float[Tensor, "batch d_value"]) -> Float[Tensor, "batch d_value"]:
        """Map the summary vector of each row to z."""
        x = token[:, None, :]
        for layer in self.layers:
            x = layer(x)
        return x[:, 0, :]


class Discriminator(nn.Module):
    """Harm score of a value state: Linear to half the width, GELU, dropout, Linear to one."""

    def __init__(self, d_value: int, dropout: float) -> None:
        """Build an untrained discriminator."""
        super().__init__()
        self.hidden = nn.Linear(d_value, d_value // 2)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(d_value // 2, 1)

    def forward(self, z: Float[Tensor, "batch d_value"]) -> Float[Tensor, " batch"]:
        """The score s of each row; above 0 means harmful."""
        score: Tensor = self.out(self.dropout(functional.gelu(self.hidden(z))))
        return score.squeeze(-1)


class ValueEncoder(nn.Module):
    """The encoder of the value space, with its three pathways.

    `mask` arguments are True at valid tokens. States may have any floating dtype; they are read in
    float32. A row without a valid token raises TokenError.
    """

    def __init__(self, config: SVGTConfig) -> None:
        """Build an untrained encoder."""
        super().__init__()
        d_model, d_value, encoder = config.d_model, config.d_value, config.encoder
        self.response_projection = nn.Linear(d_model, d_value)
        self.prompt_projection = nn.Linear(d_model, d_value)
        nn.init.xavier_uniform_(self.prompt_projection.weight, gain=PROMPT_PROJECTION_GAIN)
        nn.init.zeros_(self.prompt_projection.bias)
        self.mixer = nn.ModuleList(
            EncoderLayer(d_value, encoder.n_heads, encoder.dropout) for _ in range(encoder.n_layers)
        )
        self.cross_attention = MultiHeadAttention(d_value, encoder.n_heads, encoder.dropout)
        nn.init.xavier_uniform_(self.cross_attention.out_projection.weight)
        self.cross_norm = nn.LayerNorm(d_value)
        self.cross_scale = nn.Parameter(torch.full((1,), CROSS_SCALE_INIT))
        self.readout: nn.Module = (
            LastTokenEncoder(d_value, encoder.n_heads, encoder.dropout)
            if encoder.readout == "encoder"
            else LastTokenMLP(d_value, encoder.dropout)
        )
        if encoder.pooling:
            self.pooling_query = nn.Parameter(torch.empty(1, d_value))
            nn.init.xavier_uniform_(self.pooling_query, gain=0.1)
        self.pooling = encoder.pooling
        self.dropout = nn.Dropout(encoder.dropout)

    def unconditional(
        self, states: Float[Tensor, "batch seq d_model"], mask: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch d_value"]:
        """Value state of a text on its own (stage 1)."""
        require_tokens(mask, "text")
        mixed = self._mix(self._project_response(blank_padding(states, mask)), mask)
        return self._read(last_valid(mixed, mask))

    def conditional(
        self,
        prompt: Float[Tensor, "batch context d_model"],
        response: Float[Tensor, "batch seq d_model"],
        prompt_mask: Bool[Tensor, "batch context"],
        response_mask: Bool[Tensor, "batch seq"],
    ) -> Float[Tensor, "batch d_value"]:
        """Value state of a response given its prompt (stage 2)."""
        require_tokens(prompt_mask, "prompt")
        require_tokens(response_mask, "response")
        p = self._standardise(self._project_prompt(blank_padding(prompt, prompt_mask)))
        u = self._standardise(self._project_response(blank_padding(response, response_mask)))
        fused = u + self.cross_scale * self.cross_norm(self.cross_attention(u, p, prompt_mask))
        return self._read(last_valid(self._mix(fused, response_mask), response_mask))

    def prompt_path(
        self, states: Float[Tensor, "batch seq d_model"], mask: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch d_value"]:
        """Value state of prompt states alone; the published code reads its trigger with it."""
        require_tokens(mask, "prompt")
        mixed = self._mix(self._project_prompt(blank_padding(states, mask)), mask)
        return self._read(self._pool(mixed, mask) if self.pooling else last_valid(mixed, mask))

    def _project_response(
        self, states: Float[Tensor, "batch seq d_model"]
    ) -> Float[Tensor, "batch seq d_value"]:
        u: Tensor = self.dropout(functional.gelu(self.response_projection(states)))
        return u

    def _project_prompt(
        self, states: Float[Tensor, "batch seq d_model"]
    ) -> Float[Tensor, "batch seq d_value"]:
        p: Tensor = self.dropout(functional.gelu(self.prompt_projection(states)))
        return p

    @staticmethod
    def _standardise(
        x: Float[Tensor, "batch seq d_value"],
    ) -> Float[Tensor, "batch seq d_value"]:
        return functional.layer_norm(x, x.shape[-1:])

    def _mix(
        self, x: Float[Tensor, "batch seq d_value"], mask: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq d_value"]:
        for layer in self.mixer:
            x = layer(x, mask)
        return x

    def _pool(
        self, mixed: Float[Tensor, "batch seq d_value"], mask: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch d_value"]:
        weights: Tensor = (mixed @ self.pooling_query[0]) / mixed.shape[-1] ** 0.5
        weights = weights.masked_fill(~mask, float("-inf")).softmax(dim=1)
        return (weights[:, :, None] * mixed).sum(dim=1)

    def _read(self, token: Float[Tensor, "batch d_value"]) -> Float[Tensor, "batch d_value"]:
        z: Tensor = self.readout(token)
        return z
