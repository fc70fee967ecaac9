"""Self-attention over tokens: every token may look at every other that sees signal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scan import is_followed, may_go_back, plain_backward
from .layers import FeedForward, RMSNorm, check_tokens


class Attend(nn.Module):
    """Average values with weights that queries and keys agree on; it has no parameters.

    PyTorch's fused attention computes the average without storing the weights, which take memory
    with the square of the tokens. `weights` computes them for who wants to read them; so does a
    subclass with weights of its own, and a computation that PyTorch follows.

    Source: Vaswani et al. (2017), arXiv:1706.03762, equation 1.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``weights(q, k, mask) @ v``.

        Parameters
        ----------
        q, k, v : Tensor, shape (batch, heads, tokens, head_dim), float
        mask : Tensor, shape (batch, tokens), bool, optional
            True where a token may be looked at; everywhere, if omitted.

        Returns
        -------
        Tensor, shape (batch, heads, tokens, head_dim)
        """
        if type(self) is not Attend or is_followed(q):
            return _average(self.weights(q, k, mask), v)
        if not may_go_back(q, k, v):
            return _fused(q, k, v, mask)
        return _FusedAttention.apply(q, k, v, mask)

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute how much each token looks at each other: softmax(q kᵀ / √head_dim).

        Parameters
        ----------
        q, k, mask
            As for `forward`.

        Returns
        -------
        Tensor, shape (batch, heads, tokens, tokens), float32 or float64
            Each row sums to 1. Tokens outside the mask get zero, in a record with any valid token.
        """
        scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
        scores = scores.float() if scores.dtype != torch.float64 else scores
        if mask is not None:  # the lowest finite number: no NaN where a record has no valid token
            lowest = torch.finfo(scores.dtype).min
            scores = scores.masked_fill(~mask.bool()[:, None, None], lowest)
        return scores.softmax(-1)


def _average(weights: Tensor, v: Tensor) -> Tensor:
    return weights.to(v.dtype) @ v


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:  # as in `Attend.weights`: no NaN where a record has no valid token
        mask = q.new_zeros(mask.shape).masked_fill(~mask.bool(), torch.finfo(q.dtype).min)
        mask = mask[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class _FusedAttention(torch.autograd.Function):
    """PyTorch's own, whose backward pass cannot be differentiated: that of the weights can."""

    @staticmethod
    def forward(ctx, q, k, v, mask):
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in (q, k, v)]
            y = _fused(*leaves, mask)
        ctx.save_for_backward(q, k, v, mask)
        ctx.inner = y, leaves
        return y.detach()

    @staticmethod
    def backward(ctx, dy):
        q, k, v, mask = ctx.saved_tensors
        if torch.is_grad_enabled():  # asked for with create_graph=True
            attend = Attend()

            def plain(q, k, v):
                return _average(attend.weights(q, k, mask), v)

            return *plain_backward(plain, (q, k, v), dy), None
        return *torch.autograd.grad(*ctx.inner, dy, retain_graph=True), None


class SelfAttention(nn.Module):
    """A block of multi-head self-attention and feed-forward, each with a residual connection.

    ``x + attention(RMSNorm(x))``, then `ecgbook.models.FeedForward`. There is no code for the
    position: the tokens come from scans and convolutions, which know the order.

    Parameters
    ----------
    d_model : int
        Channels of a token.
    n_heads : int
        Heads; a divisor of `d_model`.
    dropout : float
        Dropout probability of the feed-forward part.

    Raises
    ------
    ValueError
        If `n_heads` does not divide `d_model`.
    """

    def __init__(self, d_model: int, n_heads: int = 4, dropout: float = 0.0):
        super().__init__()
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(f"n_heads={n_heads} found, a divisor of d_model={d_model} wanted")
        self.d_model, self.n_heads = d_model, n_heads
        self.norm = RMSNorm(d_model)
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.attend = Attend()
        self.out_proj = nn.Linear(d_model, d_model)
        self.feed_forward = FeedForward(d_model, dropout=dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform tokens.

        Parameters
        ----------
        x : Tensor, shape (batch, tokens, d_model), float
        mask : Tensor, shape (batch, tokens), bool, optional
            True where a token sees signal; no token looks at another one.

        Returns
        -------
        Tensor, shape (batch, tokens, d_model)

        Raises
        ------
        ValueError
            If a shape does not fit, naming the shape found and the shape wanted.
        """
        check_tokens(x, mask, self.d_model)
        h = self.attend(*self.heads(x), mask)
        return self.feed_forward(x + self.out_proj(h.transpose(1, 2).flatten(2)))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, keys and values of the tokens.

        Parameters
        ----------
        x : Tensor, shape (batch, tokens, d_model), float

        Returns
        -------
        q, k, v : Tensor, shape (batch, heads, tokens, head_dim)
        """
        h = self.in_proj(self.norm(x)).unflatten(-1, (3, self.n_heads, -1))
        return h.permute(2, 0, 3, 1, 4).unbind(0)
