"""Attention and encoder layers of the value module, with padding that cannot leak.

They compute what `torch.nn.TransformerEncoderLayer` (post-norm, GELU) computes on its plain path,
without its fused inference path, so training and inference give the same numbers.
"""

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention from `query` tokens to `memory` tokens."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        """Build with Xavier-uniform input projections and zero biases."""
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.in_projection = nn.Linear(width, 3 * width)
        self.out_projection = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_projection.weight)
        nn.init.zeros_(self.in_projection.bias)
        nn.init.zeros_(self.out_projection.bias)

    def forward(
        self,
        query: Float[Tensor, "batch read width"],
        memory: Float[Tensor, "batch seq width"],
        mask: Bool[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch read width"]:
        """Attend; `mask` is True where a memory token may be seen (None: everywhere)."""
        weight_q, weight_k, weight_v = self.in_projection.weight.chunk(3)
        bias_q, bias_k, bias_v = self.in_projection.bias.chunk(3)
        q = self._heads(functional.linear(query, weight_q, bias_q))
        k = self._heads(functional.linear(memory, weight_k, bias_k))
        v = self._heads(functional.linear(memory, weight_v, bias_v))
        attended = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        out: Tensor = self.out_projection(rearrange(attended, "b h s w -> b s (h w)"))
        return out

    def _heads(self, x: Float[Tensor, "batch seq width"]) -> Float[Tensor, "batch head seq part"]:
        return rearrange(x, "b s (h w) -> b h s w", h=self.n_heads)


class EncoderLayer(nn.Module):
    """Post-norm Transformer encoder layer, bidirectional, feed-forward four times the width."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        """Build an untrained layer."""
        super().__init__()
        self.attention = MultiHeadAttention(width, n_heads, dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch seq width"], mask: Bool[Tensor, "batch seq"] | None = None
    ) -> Float[Tensor, "batch seq width"]:
        """Mix the tokens of each row; only tokens where `mask` is True are seen."""
        x = self.attention_norm(x + self.dropout(self.attention(x, x, mask)))
        expanded = self.dropout(functional.gelu(self.expand(x)))
        out: Tensor = self.feed_forward_norm(x + self.dropout(self.contract(expanded)))
        return out
