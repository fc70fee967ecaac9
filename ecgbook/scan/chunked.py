"""The chunked algorithms behind `ecgbook.scan`, with backward passes of their own.

Both scans go through the sequence chunk by chunk, so that temporaries stay in a CPU's cache, and
keep only the states between chunks for the backward pass. It recomputes a chunk, adds masked terms
and never subtracts large numbers; no exponent is ever positive. Autocast is off inside: it would
round sums of log decays, which are exponents.

Mamba-2 and Mamba-3 share one scan, `ChunkedSSD`, to which a step's weight, log decay and skip are
given apart: in Mamba-2 they are dt, dt A and D, and for Mamba-3's see `trapezoidal_scan`. If it is
`strict`, a step reads what was written before it, and its own x through the skip alone.

Code and papers (Mamba-2: Dao and Gu 2024, section 6; Mamba-1: Gu and Dao 2023, section 3):

=========  =====================================================================================
code       in the papers
=========  =====================================================================================
x, u       input; x (b, length, h, p) of Mamba-2, u (b, length, channels) of Mamba-1
dt         step sizes, Delta: (b, length, channels) of Mamba-1
A          decay rates, negative: (channels, n) of Mamba-1
B, C       input and output projections: (b, length, g, n) and (b, length, n)
D          skip connection: (channels,) of Mamba-1
w          weight of a step, how much of its x is written: (b, length, h); dt in Mamba-2
a          log decay of a step: (b, length, h); dt A in Mamba-2, whose A-bar is its exponential
skip       how much of its own x a step gets besides: (b, length, h); D in Mamba-2
L          exp of the sums of a from step s to t: the 1-semiseparable mask
G          C B^T, masked: how much step t asks for what step s wrote
W          L * G * w, skip on the diagonal: the matrix M of "y = M x" within a chunk
state      S, h: what the past has left, one for every border between chunks
into       decay from the state before the chunk to a step; "out": from a step to the state behind
near, far  the two parts of y: from steps of the chunk, and from the state before it
=========  =====================================================================================

Letters of shapes: b batch, q steps of a chunk, h heads, p head_dim, g groups of r heads each,
n d_state. Matrix products are written so that no second factor is transposed, which BLAS does at
half the speed for matrices of this size.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from .composed import weighted_chunks, without_autocast
from .recurrences import plain_backward, selective_scan_recurrence

CACHED_CELLS = 400_000  # pairs of steps that `ChunkedSSD` computes at once on a CPU
CACHED_STATES = 200_000  # states of one step that `ChunkedSelectiveScan` computes at once there


def cuts(length: int, chunk: int, reverse: bool) -> list[slice]:
    """Cut a sequence into chunks, in the order of the scan.

    Parameters
    ----------
    length, chunk : int
    reverse : bool
        From the last chunk to the first.

    Returns
    -------
    list of slice
    """
    parts = [slice(start, min(start + chunk, length)) for start in range(0, length, chunk)]
    return parts[::-1] if reverse else parts


def slices(batch: int, cells: int, limit: int, device: torch.device) -> list[slice]:
    """Cut a batch so that what is computed at once fits a CPU's cache; leave it whole elsewhere.

    Parameters
    ----------
    batch : int
        Rows.
    cells : int
        What one row computes at once.
    limit : int
        What a slice may compute at once, if it has more than one row.
    device : torch.device

    Returns
    -------
    list of slice
    """
    step = max(1, limit // cells) if device.type == "cpu" else batch
    return [slice(start, min(start + step, batch)) for start in range(0, batch, step)]


class ChunkedSSD(torch.autograd.Function):
    """The scan of Mamba-2 and Mamba-3; arguments as of `weighted_chunks`, in its order."""

    @staticmethod
    def forward(ctx, x, w, a, B, C, skip, initial_state, chunk, reverse, strict):
        """Scan, keeping the state before each chunk."""
        work = _SSDChunks(x, w, B, chunk, reverse, strict)
        states = [work.start(initial_state)]
        states += [torch.empty_like(states[0]) for _ in work.cuts[1:]]
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        with without_autocast(x):
            for rows in work.rows:
                for cut, state, behind in zip(work.cuts, states, [*states[1:], None], strict=True):
                    parts = (v[rows, cut] for v in (x, w, a, B, C, skip, y))
                    work.forward(*parts, state[rows], None if behind is None else behind[rows])
        ctx.save_for_backward(x, w, a, B, C, skip, initial_state, *states)
        ctx.options = chunk, reverse, strict
        return y

    @staticmethod
    def backward(ctx, dy):
        """Go back chunk by chunk with the gradient of the state between them."""
        x, w, a, B, C, skip, initial_state, *states = ctx.saved_tensors
        if torch.is_grad_enabled():  # asked for with create_graph=True
            inputs = x, w, a, B, C, skip, initial_state
            grads = plain_backward(lambda *v: weighted_chunks(*v, *ctx.options), inputs, dy)
            return *grads, None, None, None
        work = _SSDChunks(x, w, B, *ctx.options)
        grads = [torch.empty(v.shape, dtype=v.dtype, device=v.device)
                 for v in (x, w, a, B, C, skip)]  # fmt: skip
        dstate = torch.zeros_like(states[0])
        with without_autocast(x):
            for rows in work.rows:
                for cut, state in zip(work.cuts[::-1], states[::-1], strict=True):
                    parts = (v[rows, cut] for v in (x, w, a, B, C, skip, dy, *grads))
                    work.backward(*parts, state[rows], dstate[rows])
        dinitial = None if initial_state is None else work.as_given(dstate)
        return *grads, dinitial, None, None, None


def _masks(ones: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return (t, s): 1 where s is t or before it in the scan, is before it, is after it."""
    upto, before, after = ones.tril(), ones.tril(-1), ones.triu(1)
    return (upto.T, after, before) if reverse else (upto, before, after)


class _SSDChunks:
    """One chunk at a time, in buffers that all chunks share; states are (b, g, n, r p)."""

    def __init__(self, x, w, B, chunk, reverse, strict):
        (self.b, length, self.h, self.p), (self.g, self.n) = x.shape, B.shape[2:]
        self.r, self.like, self.strict = self.h // self.g, w, strict
        self.low, self.exact = x.dtype, w.dtype  # of matrix products and of everything else
        self.cuts = cuts(length, chunk, reverse)
        q = min(chunk, length)
        self.rows = slices(self.b, self.h * q**2, CACHED_CELLS, x.device)
        self.masks = {
            steps: _masks(w.new_ones(steps, steps), reverse)
            for steps in {cut.stop - cut.start for cut in self.cuts}
        }
        self.buffers = {}

    def start(self, initial_state: Tensor | None) -> Tensor:
        """Return the first state in this class's layout."""
        if initial_state is None:
            return self.like.new_zeros(self.b, self.g, self.n, self.r * self.p)
        state = initial_state.reshape(self.b, self.g, self.r * self.p, self.n)
        return state.transpose(-1, -2).contiguous()

    def as_given(self, state: Tensor) -> Tensor:
        """Return a state in the layout of the public function."""
        return state.transpose(-1, -2).reshape(self.b, self.h, self.p, self.n)

    def room(self, name: str, *shape: int, dtype=None) -> Tensor:
        """Return a shared buffer: memory that was just used is in the cache."""
        size = math.prod(shape)
        if name not in self.buffers or len(self.buffers[name]) < size:
            self.buffers[name] = self.like.new_empty(size, dtype=dtype or self.exact)
        return self.buffers[name][:size].view(shape)

    def by_head(self, v: Tensor) -> Tensor:
        """(b q h p) to (b h, q, p); a view if b is 1."""
        return v.transpose(1, 2).reshape(-1, v.shape[1], self.p)

    def by_group(self, v: Tensor) -> Tensor:
        """(b q h p) to (b g, q, r p); a view if b or g is 1."""
        b, q = v.shape[:2]
        return v.reshape(b, q, self.g, -1).transpose(1, 2).reshape(b * self.g, q, -1)

    def by_step(self, v: Tensor) -> Tensor:
        """(b g, q, r p) back to (b q h p)."""
        q = v.shape[1]
        return v.view(-1, self.g, q, self.r * self.p).transpose(1, 2).reshape(-1, q, self.h, self.p)

    def read(self, q: int) -> Tensor:
        """Return (t, s): 1 where step t reads what step s of a chunk wrote."""
        upto, before, _ = self.masks[q]
        return before if self.strict else upto

    def within(self, a, B, C):
        """Return what both passes need of a chunk.

        The decay L (b h q q) from step s to t, not masked; from the state before the chunk to t
        (b q h); from s to the state behind (b q h); over the chunk (b g 1 r 1); B and C
        (b g, q, n); and G = C B^T, masked (b g, q, q).
        """
        b, q, h = a.shape
        upto, before, after = self.masks[q]  # (q q)
        until = torch.mul(a.transpose(1, 2)[:, :, None], upto, out=self.room("until", b, h, q, q))
        L = self.room("L", b * h * q, q)
        L = torch.mm(until.view(-1, q), before, out=L).exp_().view(b, h, q, q)
        into, out = (upto @ a).exp_(), (after @ a).exp_()  # (b q h)
        whole = a.sum(1).exp_().view(b, self.g, 1, self.r, 1)
        B, C = (v.transpose(1, 2).reshape(-1, q, self.n) for v in (B, C))  # (b g, q, n)
        G = torch.bmm(C, B.transpose(1, 2)).mul_(self.read(q))  # (b g, q, q)
        return L, into, out, whole, B, C, G

    def mix(self, L, G, skip, b, q):
        """Return W (b h, q, q) with ``y = W x`` within the chunk: L * G, skip on the diagonal."""
        W = self.room("W", b, self.h, q, q, dtype=self.low)
        grouped = (b, self.g, self.r, q, q)
        torch.mul(L.view(grouped), G.view(b, self.g, 1, q, q), out=W.view(grouped))
        W.diagonal(0, -2, -1).add_(skip.transpose(1, 2))
        return W.view(-1, q, q)

    def add_product(self, state, left, right):
        """Add ``left @ right`` to a state."""
        state = state.view(-1, *state.shape[2:])
        if self.low == self.exact:
            state.baddbmm_(left, right)
        else:
            state += left @ right

    def forward(self, x, w, a, B, C, skip, y, state, behind):
        """Write y (b q h p) and the state behind the chunk."""
        (b, q), (h, p, g, r, n) = x.shape[:2], (self.h, self.p, self.g, self.r, self.n)
        L, into, out, whole, B, C, G = self.within(a, B, C)
        # 1. What the steps of the chunk give each other.
        W = self.mix(L.mul_(w.transpose(1, 2)[:, :, None]), G, skip, b, q)  # (b h, q, q)
        near = torch.bmm(W, self.by_head(x), out=self.room("near", b * h, q, p, dtype=self.low))
        # 2. What the state before the chunk gives each step.
        S = state.view(b * g, n, r * p).to(self.low)
        far = torch.bmm(C, S, out=self.room("far", b * g, q, r * p, dtype=self.low))
        torch.mul(self.by_step(far), into[..., None], out=y)
        y += near.view(b, h, q, p).transpose(1, 2)
        if behind is not None:
            # 3. What the steps leave behind, and 4. what is left of the state before.
            fed = self.room("fed", b, q, h, p, dtype=self.low)
            torch.mul(x, (w * out)[..., None], out=fed)
            torch.mul(state.view(b, g, n, r, p), whole, out=behind.view(b, g, n, r, p))
            self.add_product(behind, B.transpose(1, 2), self.by_group(fed))

    def backward(self, x, w, a, B, C, skip, dy, dx, dw, da, dB, dC, dskip, state, dstate):
        """Write the gradients; turn `dstate` from that behind the chunk to that before it."""
        (b, q), (h, p, g, r, n) = x.shape[:2], (self.h, self.p, self.g, self.r, self.n)
        exact, low = self.exact, self.low
        upto, before, after = self.masks[q]
        L, into, out, whole, B, C, G = self.within(a, B, C)
        grouped, states = (b, g, r, q, q), (b, g, n, r, p)

        # Within the chunk: y_t = sum over s of W_ts x_s.
        Y = self.by_head(dy)
        x_t = self.room("x_t", b, h, p, q, dtype=low).copy_(x.permute(0, 2, 3, 1))
        dW = torch.bmm(Y, x_t.view(-1, p, q), out=self.room("dW", b * h, q, q, dtype=low))
        dW = dW.view(b, h, q, q)
        dskip.copy_(dW.diagonal(0, -2, -1).transpose(1, 2))
        weights = w.transpose(1, 2)[:, :, None]
        weighted = torch.mul(L, weights, out=self.room("weighted", b, h, q, q))
        W = self.mix(weighted, G, skip, b, q)
        near = torch.bmm(W.transpose(1, 2), Y, out=self.room("near", b * h, q, p, dtype=low))
        dG = weighted.mul_(dW).view(grouped).sum(2).mul_(self.read(q)).view(-1, q, q).to(low)
        pairs = weighted.view(grouped).mul_(G.view(b, g, 1, q, q))
        alone = L.mul_(dW).view(grouped).mul_(G.view(b, g, 1, q, q)).view(b, h, q, q).sum(2)

        # Through the states: y_t += into_t S^T C_t, and w_s out_s x_s B_s^T is fed to the next.
        S, dS = (v.view(b * g, n, r * p).to(low) for v in (state, dstate))
        S_t, dS_t = (self.room(k, b * g, r * p, n, dtype=low) for k in ("S_t", "dS_t"))
        for i in range(b * g):
            S_t[i].copy_(S[i].T)
            dS_t[i].copy_(dS[i].T)
        seen = torch.mul(dy, into[..., None], out=self.room("seen", b, q, h, p, dtype=low))
        fed = torch.mul(x, (w * out)[..., None], out=self.room("fed", b, q, h, p, dtype=low))
        pulled, fed = self.by_group(seen), self.by_group(fed)
        gC, gB = (self.room(k, b * g, q, n, dtype=low) for k in ("gC", "gB"))
        torch.baddbmm(torch.bmm(dG, B), pulled, S_t, out=gC)
        torch.baddbmm(torch.bmm(dG.transpose(1, 2), C), fed, dS_t, out=gB)
        dC.copy_(gC.view(b, g, q, n).transpose(1, 2))
        dB.copy_(gB.view(b, g, q, n).transpose(1, 2))
        kept = torch.mul(dstate, state, out=self.room("kept", *state.shape))
        dwhole = (kept.view(states).sum((2, 4), keepdim=True) * whole).view(b, 1, h)
        far = torch.bmm(B, dS, out=self.room("far", b * g, q, r * p, dtype=low))
        far = self.by_step(far).mul_(out[..., None])
        dstate.view(states).mul_(whole)
        self.add_product(dstate, C.transpose(1, 2), pulled)
        came = torch.bmm(C, S, out=self.room("came", b * g, q, r * p, dtype=low))
        enter = seen.mul_(self.by_step(came)).sum(-1, dtype=exact)
        leave = torch.mul(far, x, out=self.room("seen", b, q, h, p, dtype=low))
        leave = leave.sum(-1, dtype=exact)

        # The log decay of step u takes part in all pairs s < u <= t, in what enters before or at
        # t >= u, in what leaves from s < u, and in what passes the whole chunk.
        spans = torch.mm(pairs.view(-1, q), after, out=self.room("spans", b * h * q, q))
        within = spans.view(b, h, q, q).mul_(upto).sum(2).transpose(1, 2)
        da.copy_(within + upto.T @ enter + before @ (leave * w) + dwhole)
        torch.mul(far, w[..., None].to(low), out=dx)
        dx += near.view(b, h, q, p).transpose(1, 2)
        dw.copy_(alone.transpose(1, 2) + leave)


class ChunkedSelectiveScan(torch.autograd.Function):
    """Mamba-1's scan; arguments as of `ecgbook.scan.selective_scan`, in its order."""

    @staticmethod
    def forward(ctx, u, dt, A, B, C, D, chunk, reverse):
        """Scan, keeping the state before each chunk."""
        work = _SelectiveChunks(u, A, chunk, reverse)
        y = torch.empty_like(u, memory_format=torch.contiguous_format)
        states = [u.new_zeros(len(u), *A.shape)]
        states += [torch.empty_like(states[0]) for _ in work.cuts[1:]]
        with without_autocast(u):
            for rows in work.rows:
                for cut, state, behind in zip(work.cuts, states, [*states[1:], None], strict=True):
                    parts = (v[rows, cut] for v in (u, dt, B, C, y))
                    work.forward(*parts, state[rows], None if behind is None else behind[rows])
        if D is not None:
            y += D * u
        ctx.save_for_backward(u, dt, A, B, C, D, *states)
        ctx.chunk, ctx.reverse = chunk, reverse
        return y

    @staticmethod
    def backward(ctx, dy):
        """Go back chunk by chunk with the gradient of the state between them."""
        u, dt, A, B, C, D, *states = ctx.saved_tensors
        if torch.is_grad_enabled():  # asked for with create_graph=True
            scan = partial(selective_scan_recurrence, reverse=ctx.reverse)
            return *plain_backward(scan, (u, dt, A, B, C, D), dy), None, None
        work = _SelectiveChunks(u, A, ctx.chunk, ctx.reverse)
        du, ddt, dB, dC = (torch.empty(v.shape, dtype=v.dtype, device=v.device)
                           for v in (u, dt, B, C))  # fmt: skip
        dA, dD, dstate = torch.zeros_like(A), None, torch.zeros_like(states[0])
        with without_autocast(u):
            for rows in work.rows:
                for cut, state in zip(work.cuts[::-1], states[::-1], strict=True):
                    parts = (v[rows, cut] for v in (u, dt, B, C, dy, du, ddt, dB, dC))
                    dA += work.backward(*parts, state[rows], dstate[rows])
        if D is not None:
            dD = (dy * u).sum((0, 1))
            du += D * dy
        return du, ddt, dA, dB, dC, dD, None, None


class _SelectiveChunks:
    """One chunk at a time, in buffers that all chunks share, some rows of the batch at once.

    In the buffers time comes first, so that the states of one step are one block of memory.
    """

    def __init__(self, u, A, chunk, reverse):
        b, length, _ = u.shape
        self.cuts, self.reverse, self.A, self.buffers = cuts(length, chunk, reverse), reverse, A, {}
        self.rows = slices(b, A.numel(), CACHED_STATES, u.device)
        self.most = min(chunk, length) + 1, self.rows[0].stop

    def room(self, name: str, q: int, b: int) -> Tensor:
        """Return a shared buffer (q, b, channels, n)."""
        if name not in self.buffers:
            self.buffers[name] = self.A.new_empty(*self.most, *self.A.shape)
        return self.buffers[name][:q, :b]

    def states(self, dt, fed, B, state):
        """Return the decays, the states before each step and those after it."""
        q, b = dt.shape[:2]
        decay, h = self.room("decay", q, b), self.room("h", q + 1, b)
        earlier, after = (h[1:], h[:-1]) if self.reverse else (h[:-1], h[1:])
        torch.mul(dt[..., None], self.A, out=decay).exp_()
        torch.mul(fed[..., None], B[:, :, None], out=after)
        h[-1 if self.reverse else 0] = state
        for t in range(q)[::-1] if self.reverse else range(q):
            after[t].addcmul_(decay[t], earlier[t])
        return decay, earlier, after

    def forward(self, u, dt, B, C, y, state, behind):
        """Write y (b q channels) and the state behind the chunk."""
        u, dt, B, C, y = (v.transpose(0, 1) for v in (u, dt, B, C, y))
        _, _, h = self.states(dt, dt * u, B, state)
        y.copy_((h @ C[..., None])[..., 0])
        if behind is not None:
            behind.copy_(h[0 if self.reverse else -1])

    def backward(self, u, dt, B, C, dy, du, ddt, dB, dC, state, dstate):
        """Write the gradients and return that of A; turn `dstate` into that before the chunk."""
        given = u, dt, B, C, dy, du, ddt, dB, dC
        u, dt, B, C, dy, du, ddt, dB, dC = (v.transpose(0, 1) for v in given)
        fed = dt * u
        decay, earlier, h = self.states(dt, fed, B, state)
        g = self.room("g", *dt.shape[:2])  # gradient of the states
        torch.mul(dy[..., None], C[:, :, None], out=g)
        order = range(len(g)) if self.reverse else range(len(g))[::-1]
        g[order[0]] += dstate
        for later, t in zip(order, order[1:], strict=False):
            g[t].addcmul_(decay[later], g[later])
        torch.mul(decay[order[-1]], g[order[-1]], out=dstate)
        dC.copy_((dy[:, :, None] @ h)[:, :, 0])
        dB.copy_((fed[:, :, None] @ g)[:, :, 0])
        dfed = (g @ B[..., None])[..., 0]
        log_decay = g.mul_(decay).mul_(earlier)  # gradient of dt_t A
        ddt.copy_(torch.mul(log_decay, self.A, out=decay).sum(-1) + dfed * u)
        torch.mul(dfed, dt, out=du)
        return log_decay.mul_(dt[..., None]).sum((0, 1))
