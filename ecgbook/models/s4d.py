"""S4D: a state-space layer with the same coefficients at every token, as a long convolution.

Where Mamba lets the input choose step sizes, B and C, here they are parameters. So the scan is a
convolution with a kernel as long as the record, one a channel, which a fast Fourier transform
computes at once. Complex numbers stand as pairs, real and imaginary part: ONNX knows no others.

Parameters have the names and shapes of the published minimal code, models/s4/s4d.py of
github.com/state-spaces/s4. One has lost an axis, since a convolution of width 1 is a linear layer
here: ``weights["output_linear.0.weight"].squeeze(-1)`` fits.

===================  ===========================================================================
code                 in the paper
===================  ===========================================================================
dt, log_dt           step size, Delta, and its logarithm: (d_model,)
log_A_real, A_imag   A = -exp(log_A_real) + i A_imag: (d_model, d_state / 2), one of each pair
C                    what is read from the states: (d_model, d_state / 2, 2); B is 1
D                    skip connection: (d_model,)
K                    what an input adds to the output so many steps later
===================  ===========================================================================
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scan import is_written_down, without_autocast
from .mixing import exact, only_signal, undecayed

CHUNK = 64  # steps whose powers of A are computed one by one


class S4D(nn.Module):
    """The S4D mixer: a long convolution of each channel, GELU, a linear layer and its gate.

    Parameters
    ----------
    d_model : int
        Channels of a token.
    d_state : int
        States of a channel, in conjugate pairs.
    bidirectional : bool
        Add a second kernel, with a C of its own, for the tokens that follow.
    start : {"lin", "inv"}
        Frequencies at the start: pi n, or those of the paper's S4D-Inv.

    Raises
    ------
    ValueError
        If `d_state` is odd, or the start is none of these.

    Notes
    -----
    A token outside the mask enters as zero, so padding changes nothing at tokens that see signal.
    But time passes there all the same: behind a gap states have turned and decayed, while Mamba
    steps over it.

    Source: Gu, Gupta, Goel and Ré (2022), arXiv:2206.11893; for both directions Goel, Gu, Donahue
    and Ré (2022), arXiv:2202.09729.
    """

    def __init__(
        self, d_model: int, d_state: int = 64, bidirectional: bool = False, start: str = "lin"
    ):
        super().__init__()
        self.d_model = d_model
        self.kernel = S4DKernel(d_model, d_state, bidirectional, start)
        self.conv = LongConv()
        self.D = undecayed(torch.randn(d_model))
        self.act = nn.GELU()
        self.output_linear = nn.Sequential(nn.Linear(d_model, 2 * d_model), nn.GLU())

    def forward(self, h: Tensor, mask: Tensor | None = None, reverse: bool = False) -> Tensor:
        """Mix tokens over time; arguments, result and errors as for `Mamba.forward`."""
        h = only_signal(h, mask, self.d_model)
        K = self.kernel(h.shape[1])
        y = self.conv(h, K.flip(-1) if reverse else K) + self.D * h
        return self.output_linear(self.act(y.to(h.dtype)))


class S4DKernel(nn.Module):
    """The kernels of `S4D` from its step sizes, A and C: a zero-order hold.

    ``K_l = 2 Re sum over n of C_n (exp(dt A_n) - 1) / A_n exp(l dt A_n)``; the 2 is for the other
    of each pair.

    Parameters
    ----------
    d_model, d_state, bidirectional, start
        As for `S4D`, and so are the errors.

    Notes
    -----
    The powers of all steps, a Vandermonde matrix, are never in memory at once: that of step
    64 i + j is one of i times one of j, and a product of two small matrices sums over states.

    Source: Gu, Gupta, Goel and Ré (2022), arXiv:2206.11893, sections 3 and 4.
    """

    def __init__(self, d_model: int, d_state: int, bidirectional: bool, start: str):
        super().__init__()
        if d_state < 2 or d_state % 2:
            raise ValueError(f"d_state={d_state} found, an even number wanted, 2 or more")
        n = torch.arange(d_state // 2, dtype=torch.float32)
        starts = {"lin": math.pi * n, "inv": d_state / math.pi * (d_state / (2 * n + 1) - 1)}
        if start not in starts:
            raise ValueError(f"start={start!r} found, one of {', '.join(starts)} wanted")
        self.bidirectional = bidirectional
        shape = d_model, d_state // 2
        self.log_dt = undecayed(torch.empty(d_model).uniform_(math.log(0.001), math.log(0.1)))
        self.log_A_real = undecayed(torch.full(shape, math.log(0.5)))
        self.A_imag = undecayed(starts[start].repeat(d_model, 1))
        both = (2, *shape) if bidirectional else shape
        self.C = nn.Parameter(torch.randn(*both, 2) * 0.5**0.5)

    def forward(self, length: int) -> Tensor:
        """Compute the kernels for so many tokens.

        Parameters
        ----------
        length : int

        Returns
        -------
        Tensor, shape (d_model, 2 * length - 1), float32 or float64
            What an input adds to the output `length` - 1 steps before it, and so on up to
            `length` - 1 steps behind it. In one direction, all before it is zero.
        """
        with without_autocast(self.C):
            K = self._ahead(length)
        if not self.bidirectional:
            return F.pad(K, (length - 1, 0))
        ahead, back = K
        return torch.cat([back[:, : length - 1].flip(-1), ahead], -1)

    def _ahead(self, length: int) -> Tensor:
        """Return what an input adds to the output 0, 1, ... steps behind it."""
        dt = exact(self.log_dt).exp()[:, None]
        decay, turn = exact(self.log_A_real).exp(), exact(self.A_imag)  # A = -decay + i turn
        step = -dt * decay, dt * turn
        held = _times(_exp_minus_1(*step), (-decay, -turn))  # over A, but for its square
        C_re, C_im = (exact(self.C) / (decay.square() + turn.square())[..., None]).unbind(-1)
        weight = (v[..., None] for v in _times((C_re, C_im), held))

        chunks = (length + CHUNK - 1) // CHUNK
        early = _powers(*step, torch.arange(CHUNK, device=dt.device))  # (d_model, n, CHUNK)
        late = _powers(*step, CHUNK * torch.arange(chunks, device=dt.device))
        late_re, late_im = _times(tuple(weight), late)  # (..., d_model, n, chunks)
        rows = torch.cat([late_re, -late_im], -2).transpose(-1, -2)  # Re (a b) = Re Re - Im Im
        return 2 * (rows @ torch.cat(early, -2)).flatten(-2)[..., :length]


class LongConv(nn.Module):
    """Convolve each channel with its own kernel over all that was and all that comes.

    By fast Fourier transforms, whose rounding also reaches tokens that a kernel does not. In a
    graph for ONNX or another program, which may not know them, by a plain convolution: the same
    numbers, at a cost that grows with the square of the length.
    """

    def forward(self, u: Tensor, kernel: Tensor) -> Tensor:
        """Return ``y_t = sum over s of kernel_{length - 1 + t - s} u_s``.

        Parameters
        ----------
        u : Tensor, shape (batch, length, channels), float
        kernel : Tensor, shape (channels, 2 * length - 1), float32 or float64

        Returns
        -------
        Tensor, shape (batch, length, channels)
            In the dtype of `kernel`.
        """
        length, channels = u.shape[1:]
        with without_autocast(u):
            u = u.to(kernel.dtype).transpose(1, 2)
            if is_written_down():
                taps = kernel.flip(-1)[:, None]
                y = F.conv1d(u, taps, padding=length - 1, groups=channels)
            else:
                n = 2 * length  # what wraps around lands before the part that is kept
                product = torch.fft.rfft(u, n=n) * torch.fft.rfft(kernel, n=n)
                y = torch.fft.irfft(product, n=n)[..., length - 1 : n - 1]
        return y.transpose(1, 2)


def _times(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _powers(re: Tensor, im: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``exp(steps (re + i im))``, with the steps on a last axis."""
    size, angle = (re[..., None] * steps).exp(), im[..., None] * steps
    return size * angle.cos(), size * angle.sin()


def _exp_minus_1(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``exp(re + i im) - 1`` without subtracting numbers that are almost equal."""
    return re.expm1() * im.cos() - 2 * (im / 2).sin().square(), re.exp() * im.sin()
