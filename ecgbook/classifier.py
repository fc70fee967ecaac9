"""What all models share: the check of their input, and the way from tokens to logits."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class TokenClassifier(nn.Module, ABC):
    """What the models share: a signal becomes tokens, their mean becomes logits.

    A model gives itself ``scale``, ``pool``, ``head``, the method ``tokens`` and ``config``, the
    arguments that build it again.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Classify records.

        Parameters
        ----------
        x : Tensor, shape (batch, length, 12), float
            Signal in mV, standard lead order.
        mask : Tensor, shape (batch, length), bool, optional
            True where there is signal; everywhere, if omitted.

        Returns
        -------
        Tensor, shape (batch, n_classes)
            One logit a label.

        Raises
        ------
        ValueError
            If the input is not ``(batch, length, 12)``, is in float64 where the model is not, or
            the mask does not match.
        """
        check_input(x, mask)
        if x.dtype == torch.float64 != self.head.weight.dtype:
            raise ValueError(
                f"input of torch.float64 found, {self.head.weight.dtype} wanted, as the model is; "
                "convert it with x.float()"
            )
        tokens, token_mask = self.tokens(self.scale(x), mask)
        return self.head(self.pool(tokens, token_mask))

    @abstractmethod
    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute what the mean is taken of.

        Parameters
        ----------
        x : Tensor, shape (batch, length, 12), float
            Scaled signal.
        mask : Tensor, shape (batch, length), bool, optional

        Returns
        -------
        tokens : Tensor, shape (batch, tokens, d_model)
        token_mask : Tensor, shape (batch, tokens), bool
            True where the token sees signal.
        """


def check_input(x: Tensor, mask: Tensor | None) -> None:
    """Refuse a batch that is not ``(batch, length, 12)`` with a matching boolean mask.

    Parameters
    ----------
    x : Tensor
    mask : Tensor or None

    Raises
    ------
    ValueError
        Naming the shape found and the shape wanted.
    """
    if x.ndim != 3 or x.shape[-1] != 12:
        hint = "; transpose the last two axes" if x.ndim == 3 and x.shape[1] == 12 else ""
        raise ValueError(
            f"input of shape {tuple(x.shape)} found, (batch, length, 12) in mV wanted{hint}"
        )
    if len(x) == 0:
        raise ValueError("an empty batch found, at least one record wanted")
    if x.shape[1] < 64:
        raise ValueError(f"input of {x.shape[1]} samples found, at least 64 wanted")
    if mask is not None and (mask.shape != x.shape[:2] or mask.dtype.is_floating_point):
        raise ValueError(
            f"mask of shape {tuple(mask.shape)}, {mask.dtype} found, "
            f"{tuple(x.shape[:2])}, torch.bool wanted"
        )
