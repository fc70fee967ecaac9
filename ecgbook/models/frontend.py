"""From millivolts to tokens: the convolutional stem of the original, and one stem a lead group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..leads import LEAD_GROUPS, LEADS, group_columns
from .layers import MaskedBatchNorm1d


class ConvStem(nn.Module):
    """Two strided convolutions that turn a signal into a sequence of tokens.

    Conv1d (kernel 14, stride 3, padding 2) then Conv1d (kernel 15, stride 4), each without bias
    and followed by batch normalization and ReLU: 8192 samples become 2728, then 729 tokens.

    Parameters
    ----------
    in_leads : int
        Leads of the signal, 12 for the whole ECG.
    width : int
        Channels between the two convolutions.
    d_model : int
        Channels of a token.
    padding : int
        Zero padding of the second convolution. The original's 100 lets 44 of the 729 tokens see
        nothing else; the tutorial size uses 7.

    Notes
    -----
    With a mask, the stem of a padded record gives the tokens of the same record unpadded: samples
    outside the mask are set to zero, and so are positions of the first convolution that would not
    exist without the padding.
    """

    def __init__(
        self, in_leads: int = 12, width: int = 128, d_model: int = 384, padding: int = 100
    ):
        super().__init__()
        self.conv1 = nn.Conv1d(in_leads, width, 14, stride=3, padding=2, bias=False)
        self.norm1 = MaskedBatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, d_model, 15, stride=4, padding=padding, bias=False)
        self.norm2 = MaskedBatchNorm1d(d_model)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()  # captum's DeepLift wants each used once

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        masks: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Turn a signal into tokens.

        Parameters
        ----------
        x : Tensor, shape (batch, length, in_leads), float
            Scaled signal.
        mask : Tensor, shape (batch, length), bool, optional
            True where there is signal; everywhere, if omitted.
        masks : (Tensor, Tensor), optional
            What `masks` returns for `mask`, where stems of one geometry share it.

        Returns
        -------
        tokens : Tensor, shape (batch, tokens, d_model)
        token_mask : Tensor, shape (batch, tokens), bool
            True where a token sees signal and no more padding than the record alone would have.
        """
        inside, token_mask = self.masks(everywhere(x, mask)) if masks is None else masks
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)  # also where padding is NaN
        h = x.transpose(1, 2)
        h = self.relu1(self.norm1(self.conv1(h), inside)) * inside[:, None]
        h = self.relu2(self.norm2(self.conv2(h), token_mask))
        return h.transpose(1, 2), token_mask

    def masks(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Follow a validity mask through the two convolutions.

        Parameters
        ----------
        mask : Tensor, shape (batch, length), bool

        Returns
        -------
        inside : Tensor, shape (batch, length1), bool
            Positions of the first convolution that hold signal.
        token_mask : Tensor, shape (batch, tokens), bool
            Positions of the second convolution, the tokens, that hold signal.
        """
        inside = follow_mask(mask, self.conv1)
        return inside, follow_mask(inside, self.conv2)


class LeadBranches(nn.Module):
    """One stem and one block over time for each group of neighboring leads.

    Parameters
    ----------
    blocks : mapping of str to torch.nn.Module
        For each group the block behind its stem, such as `ecgbook.models.Bidirectional`; called
        as ``block(tokens, token_mask)``.
    width, d_model, padding : int
        As for `ConvStem`.
    leads : sequence of str
        Names of the signal's columns. Each of `ecgbook.leads.LEAD_GROUPS` keeps those of its
        leads that are there, and a group without any is left out.

    Raises
    ------
    ValueError
        If the leads are of fewer than two groups, or `blocks` does not name the groups.
    """

    def __init__(
        self,
        blocks: Mapping[str, nn.Module],
        width: int = 128,
        d_model: int = 384,
        padding: int = 100,
        leads: Sequence[str] = LEADS,
    ):
        super().__init__()
        self.columns = group_columns(leads)
        if len(self.columns) < 2:
            raise ValueError(
                f"leads {', '.join(leads)} of {len(self.columns)} lead groups found, leads of two "
                f"or more of {', '.join(LEAD_GROUPS)} wanted; build the model without branches: "
                "use_multi_branch=False"
            )
        if set(blocks) != set(self.columns):
            raise ValueError(
                f"blocks for {', '.join(blocks)} found, for {', '.join(self.columns)} wanted"
            )
        self.stems = nn.ModuleDict(
            {name: ConvStem(len(columns), width, d_model, padding)
             for name, columns in self.columns.items()}
        )  # fmt: skip
        self.blocks = nn.ModuleDict({name: blocks[name] for name in self.columns})

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        masks: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Turn each lead group into tokens of its own.

        Parameters
        ----------
        x : Tensor, shape (batch, length, leads), float
            Scaled signal.
        mask : Tensor, shape (batch, length), bool, optional
            True where there is signal; everywhere, if omitted.
        masks : (Tensor, Tensor), optional
            As for `ConvStem.forward`.

        Returns
        -------
        tokens : Tensor, shape (batch, tokens, groups, d_model)
            In the order of `ecgbook.leads.LEAD_GROUPS`.
        token_mask : Tensor, shape (batch, tokens), bool
            As `ConvStem` returns it; the same for all groups.
        """
        if masks is None:
            masks = next(iter(self.stems.values())).masks(everywhere(x, mask))
        branches = []
        for name, stem in self.stems.items():
            tokens, token_mask = stem(x[..., self.columns[name]], mask, masks)
            branches.append(self.blocks[name](tokens, token_mask))
        return torch.stack(branches, dim=2), masks[1]


def everywhere(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mask of a batch; where there is none, one that is true everywhere.

    Parameters
    ----------
    x : Tensor, shape (batch, length, leads)
    mask : Tensor, shape (batch, length), bool, optional

    Returns
    -------
    Tensor, shape (batch, length), bool
    """
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask


def follow_mask(mask: Tensor, conv: nn.Conv1d) -> Tensor:
    """Say which outputs of a convolution the signal alone, without padding behind it, would have.

    Parameters
    ----------
    mask : Tensor, shape (batch, length), bool
        True where the convolution's input is signal.
    conv : torch.nn.Conv1d

    Returns
    -------
    Tensor, shape (batch, output length), bool
        True where the window sees signal and lies within the signal and the convolution's own
        zero padding on either side of it.
    """
    (kernel,), (stride,), (padding,) = conv.kernel_size, conv.stride, conv.padding
    signal = F.pad(mask.float(), (padding, padding))
    widened = F.max_pool1d(signal, 2 * padding + 1, 1, padding)
    within = F.max_pool1d(1 - widened, kernel, stride) == 0
    return within & (F.max_pool1d(signal, kernel, stride) > 0)
