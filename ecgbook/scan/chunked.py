"""The chunked algorithms behind `ecgbook.scan`, with backward passes of their own.

Both scans go through the sequence chunk by chunk, so that temporaries stay in a CPU's cache, and
keep only the states between chunks for the backward pass, which recomputes a chunk. No exponent is
ever positive. Autocast is off inside: it would round sums of log decays, which are exponents.

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
n d_state, c chunks that are computed at once (only their states come one after the other). Sums of
log decays over a span of steps are differences of sums from the chunk's start, in float64, so that
a difference keeps the digits that float32 has. Decays are powers of two of logarithms to the base
two: on AMD's processors PyTorch's `exp2` takes a third of the time of its `exp`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from .composed import weighted_chunks, without_autocast
from .recurrences import plain_backward, selective_scan_recurrence

CELLS = {"cpu": 250_000, "other": 40_000_000}  # pairs of steps that `ChunkedSSD` takes at once
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
    def forward(ctx, x, w, a, B, C, skip, initial_state, chunk, reverse, strict, keep):
        """Scan; where a backward pass may follow, keep the state before each chunk."""
        work = _SSDChunks(x, w, B, chunk, reverse, strict)
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        kept = []
        with without_autocast(x):
            for rows in work.rows:
                blocks = work.blocks(rows, x, w, a, B, C, skip, y)
                states = work.start(blocks[0], initial_state, rows)
                for block, following in zip(blocks, [*blocks[1:], None], strict=True):
                    behind = None if following is None else work.states(following)
                    work.forward(*block, states, behind)
                    kept += [states] * keep
                    states = behind
        ctx.save_for_backward(x, w, a, B, C, skip, initial_state, *kept)
        ctx.options = chunk, reverse, strict
        return y

    @staticmethod
    def backward(ctx, dy):
        """Go back block by block with the gradient of the state between them."""
        x, w, a, B, C, skip, initial_state, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # asked for with create_graph=True
            inputs = x, w, a, B, C, skip, initial_state
            grads = plain_backward(lambda *v: weighted_chunks(*v, *ctx.options), inputs, dy)
            return *grads, None, None, None, None
        work = _SSDChunks(x, w, B, *ctx.options)
        grads = [torch.empty(v.shape, dtype=v.dtype, device=v.device)
                 for v in (x, w, a, B, C, skip)]  # fmt: skip
        dstart = []
        with without_autocast(x):
            for rows in work.rows[::-1]:
                blocks = work.blocks(rows, x, w, a, B, C, skip, dy, *grads)
                dstate = torch.zeros_like(kept[-1][0])
                for block in blocks[::-1]:
                    dstate = work.backward(*block, kept.pop(), dstate)
                dstart.append(dstate)
        dinitial = None if initial_state is None else work.as_given(torch.cat(dstart[::-1]))
        return *grads, dinitial, None, None, None, None


class _SSDChunks:
    """Some chunks at a time, in buffers that all of them share; states are (b, g, n, r p)."""

    def __init__(self, x, w, B, chunk, reverse, strict):
        (self.b, self.length, self.h, self.p), (self.g, self.n) = x.shape, B.shape[2:]
        self.r = self.h // self.g
        self.like, self.reverse = w, reverse
        self.low, self.exact = x.dtype, w.dtype  # of matrix products and of everything else
        self.q = min(chunk, self.length)
        self.chunks = -(-self.length // self.q)
        self.onward = -1 if reverse else 1
        # (t, s): 1 where step t reads what step s wrote.
        read = w.new_ones(self.q, self.q).tril(-1 if strict else 0)
        self.read, self.buffers = read.T if reverse else read, {}
        cells, limit = self.h * self.q**2, CELLS["cpu" if x.device.type == "cpu" else "other"]
        self.rows = slices(self.b, cells, limit, x.device)
        self.at_once = max(1, limit // (cells * self.rows[0].stop))

    def blocks(self, rows: slice, *tensors: Tensor) -> list[list]:
        """Cut (b, length, ...) into views (c, b, q, ...), in the order of the scan."""
        full = self.length // self.q
        cut = [slice(at, min(at + self.at_once, full)) for at in range(0, full, self.at_once)]
        cut += [slice(full, self.chunks)] * (full < self.chunks)
        blocks = []
        for at in cut[:: self.onward]:
            steps = slice(at.start * self.q, at.stop * self.q)
            parts = (v[rows, steps].unflatten(1, (at.stop - at.start, -1)) for v in tensors)
            blocks.append([v.transpose(0, 1) for v in parts])
        return blocks

    def states(self, block: list[Tensor]) -> Tensor:
        """Return room for the state before each chunk of a block: (c, b, g, n, r p)."""
        return self.like.new_empty(*block[0].shape[:2], self.g, self.n, self.r * self.p)

    def start(self, block: list[Tensor], initial_state: Tensor | None, rows: slice) -> Tensor:
        """Return that of the first block, with the first state set."""
        states = self.states(block)
        first = self.ordered(states)[0]
        if initial_state is None:
            first.zero_()
        else:
            state = initial_state[rows].reshape(-1, self.g, self.r * self.p, self.n)
            first.copy_(state.transpose(-1, -2))
        return states

    def ordered(self, chunks: Sequence[Tensor]) -> list[Tensor]:
        """Return chunks in the order of the scan."""
        return list(chunks)[:: self.onward]

    def as_given(self, state: Tensor) -> Tensor:
        """Return a state in the layout of `ssd`, (b, heads, head_dim, d_state)."""
        return state.transpose(-1, -2).reshape(self.b, self.h, self.p, self.n)

    def room(self, name: str, *shape: int, dtype=None) -> Tensor:
        """Return a shared buffer: memory that was just used is in the cache."""
        size = math.prod(shape)
        if name not in self.buffers or len(self.buffers[name]) < size:
            self.buffers[name] = self.like.new_empty(size, dtype=dtype or self.exact)
        return self.buffers[name][:size].view(shape)

    def scaled(self, v: Tensor, by: Tensor, out: Tensor) -> Tensor:
        """Write ``v * by``, over `exact`: products of unlike dtypes take ten times as long."""
        if v.dtype == by.dtype:
            return torch.mul(v, by, out=out)
        return out.copy_(self.room("wide", *v.shape).copy_(v).mul_(by))

    def by_head(self, v: Tensor) -> Tensor:
        """(c b q h p) to (c b h, q, p)."""
        return v.transpose(2, 3).reshape(-1, v.shape[2], self.p)

    def by_group(self, v: Tensor) -> Tensor:
        """(c b q h p) to (c b g, q, r p); a view if g is 1 and v contiguous."""
        c, b, q = v.shape[:3]
        return v.reshape(c, b, q, self.g, -1).transpose(2, 3).reshape(c * b * self.g, q, -1)

    def by_step(self, v: Tensor, c: int) -> Tensor:
        """(c b g, q, r p) back to (c b q h p)."""
        v = v.view(c, -1, self.g, *v.shape[1:]).transpose(2, 3)
        return v.reshape(*v.shape[:3], self.h, self.p)

    def running(self, v: Tensor, onward: bool = True) -> Tensor:
        """Add up v (..., q) in float64, with the scan or against it."""
        v = v.double()
        return v.cumsum(-1) if onward != self.reverse else v.flip(-1).cumsum(-1).flip(-1)

    def within(self, a, B, C):
        """Return what both passes need of chunks.

        The decay L (c b h q q) from step s to t, 1 where s is after t; from the state before the
        chunk to t (c b q h); from s to the state behind (c b q h); over the chunk (c b g 1 r 1); B
        and C (c b g, q, n); and G = C B^T, masked (c b g, q, q).
        """
        c, b, q, _ = a.shape
        sums = self.running(a.transpose(2, 3)) / math.log(2)  # (c b h q), from the chunk's start
        total = sums[..., :1] if self.reverse else sums[..., -1:]
        L = torch.sub(sums[..., None], sums[..., None, :], out=self.room("L", *sums.shape, q))
        L.clamp_(max=0).exp2_()
        into, out = (v.exp2().to(self.exact).transpose(2, 3) for v in (sums, total - sums))
        whole = total.exp2().to(self.exact).view(c, b, self.g, 1, self.r, 1)
        B, C = (v.transpose(2, 3).reshape(-1, q, self.n) for v in (B, C))
        G = torch.bmm(C, B.transpose(1, 2)).to(self.exact).mul_(self.read[:q, :q])
        return L, into, out, whole, B, C, G

    def mix(self, L, G, skip):
        """Return W (c b h, q, q) with ``y = W x`` within a chunk: L * G, skip on the diagonal."""
        c, b, h, q, _ = L.shape
        W = self.room("W", *L.shape, dtype=self.low)
        grouped = (c, b, self.g, self.r, q, q)
        torch.mul(L.view(grouped), G.view(c, b, self.g, 1, q, q), out=W.view(grouped))
        W.diagonal(0, -2, -1).add_(skip.transpose(2, 3))
        return W.view(-1, q, q)

    def forward(self, x, w, a, B, C, skip, y, states, behind):
        """Write y (c b q h p), and the states after the first, up to the next block's first."""
        (c, b, q), (h, p, g, r, n) = x.shape[:3], (self.h, self.p, self.g, self.r, self.n)
        L, into, out, whole, B, C, G = self.within(a, B, C)
        # 1. What the steps of a chunk give each other.
        W = self.mix(L.mul_(w.transpose(2, 3)[..., None, :]), G, skip)
        near = torch.bmm(W, self.by_head(x), out=self.room("near", c * b * h, q, p, dtype=self.low))
        # 2. What they leave behind, and 3. what is left there of the state before.
        slots = self.ordered(states) + ([] if behind is None else self.ordered(behind)[:1])
        if len(slots) > 1:
            fed = self.room("fed", *x.shape, dtype=self.low)
            self.scaled(x, (w * out)[..., None], fed)
            left = self.room("left", c * b * g, n, r * p, dtype=self.low)
            left = torch.bmm(B.transpose(1, 2), self.by_group(fed), out=left).to(self.exact)
            left, kept = (self.ordered(v) for v in (left.view(c, b, g, n, r, p), whole))
            for before, after, own, share in zip(slots, slots[1:], left, kept, strict=False):
                torch.addcmul(own, share, before.view(own.shape), out=after.view(own.shape))
        # 4. What the state before the chunk gives each step.
        S = states.view(c * b * g, n, r * p).to(self.low)
        far = torch.bmm(C, S, out=self.room("far", c * b * g, q, r * p, dtype=self.low))
        self.scaled(self.by_step(far, c), into[..., None], y)
        y += near.view(c, b, h, q, p).transpose(2, 3)

    def backward(self, x, w, a, B, C, skip, dy, dx, dw, da, dB, dC, dskip, states, dstate):
        """Write the gradients, and return that of the state before for that behind, `dstate`."""
        (c, b, q), (h, p, g, r, n) = x.shape[:3], (self.h, self.p, self.g, self.r, self.n)
        exact, low = self.exact, self.low
        L, into, out, whole, B, C, G = self.within(a, B, C)
        grouped = (c, b, g, r, q, q)

        # Within a chunk: y_t = sum over s of W_ts x_s.
        Y, X_t = self.by_head(dy), self.by_head(x).transpose(1, 2)
        dW = torch.bmm(Y, X_t, out=self.room("dW", c * b * h, q, q, dtype=low)).view(L.shape)
        dskip.copy_(dW.diagonal(0, -2, -1).transpose(2, 3))
        weights = w.transpose(2, 3)[..., None, :]
        weighted = torch.mul(L, weights, out=self.room("weighted", *L.shape))
        W = self.mix(weighted, G, skip)
        near = torch.bmm(W.transpose(1, 2), Y, out=self.room("near", c * b * h, q, p, dtype=low))
        dG = weighted.mul_(dW).view(grouped).sum(3).mul_(self.read[:q, :q]).view(-1, q, q).to(low)
        G = G.view(c, b, g, 1, q, q)
        pairs = weighted.view(grouped).mul_(G).view(L.shape)
        alone = L.mul_(dW).view(grouped).mul_(G).view(L.shape).sum(3)

        # Through the states: y_t += into_t S^T C_t, and w_s out_s x_s B_s^T is fed to the next.
        seen = self.scaled(dy, into[..., None], self.room("seen", *x.shape, dtype=low))
        fed = self.scaled(x, (w * out)[..., None], self.room("fed", *x.shape, dtype=low))
        pulled, fed = self.by_group(seen), self.by_group(fed)
        asked = self.room("left", c * b * g, n, r * p, dtype=low)
        asked = torch.bmm(C.transpose(1, 2), pulled, out=asked).to(exact).view(c, b, g, n, r, p)
        slots = [dstate.view(b, g, n, r, p)]  # of the state behind each chunk, from the last one
        for own, share in zip(*(self.ordered(v)[::-1] for v in (asked, whole)), strict=True):
            slots.append(torch.addcmul(own, share, slots[-1]))
        dstate = slots.pop().view(dstate.shape)
        behind = torch.stack(self.ordered(slots)[::-1]) if c > 1 else slots[0]
        behind = behind.view(states.shape)
        S, dS = (v.view(c * b * g, n, r * p).to(low) for v in (states, behind))
        gC, gB = (self.room(k, c * b * g, q, n, dtype=low) for k in ("gC", "gB"))
        torch.baddbmm(torch.bmm(dG, B), pulled, S.transpose(1, 2), out=gC)
        torch.baddbmm(torch.bmm(dG.transpose(1, 2), C), fed, dS.transpose(1, 2), out=gB)
        dC.copy_(gC.view(c, b, g, q, n).transpose(2, 3))
        dB.copy_(gB.view(c, b, g, q, n).transpose(2, 3))
        kept = torch.mul(behind, states, out=self.room("kept", *states.shape))
        kept = kept.view(c, b, g, n, r, p).sum((3, 5), keepdim=True)
        dwhole = (kept * whole).view(c, b, 1, h)
        far = torch.bmm(B, dS, out=self.room("far", c * b * g, q, r * p, dtype=low))
        far = self.by_step(far, c)
        far = self.scaled(far, out[..., None], far)
        came = torch.bmm(C, S, out=self.room("came", c * b * g, q, r * p, dtype=low))
        enter = seen.mul_(self.by_step(came, c)).sum(-1, dtype=exact)
        leave = torch.mul(far, x, out=self.room("seen", *x.shape, dtype=low))
        leave = leave.sum(-1, dtype=exact)

        # A step's log decay is part of every sum from that step on: of the sum at t in all pairs
        # (t, s), with the other sign in all pairs (s, t), in what enters at t and leaves at t, and
        # of the sum over the chunk.
        dsums = pairs.sum(4, dtype=torch.double) - pairs.sum(3, dtype=torch.double)  # (c b h q)
        left = leave * w
        dsums += (enter - left).transpose(2, 3)
        sums = self.running(dsums, onward=False).to(exact).transpose(2, 3)
        da.copy_(sums + left.sum(2, keepdim=True) + dwhole)
        self.scaled(far, w[..., None], dx)
        dx += near.view(c, b, h, q, p).transpose(2, 3)
        dw.copy_(alone.transpose(2, 3) + leave)
        return dstate


class ChunkedSelectiveScan(torch.autograd.Function):
    """Mamba-1's scan; arguments as of `ecgbook.scan.selective_scan`, in its order."""

    @staticmethod
    def forward(ctx, u, dt, A, B, C, D, chunk, reverse, keep):
        """Scan; where a backward pass may follow, keep the state before each chunk."""
        work = _SelectiveChunks(u, A, chunk, reverse)
        y = torch.empty_like(u, memory_format=torch.contiguous_format)
        kept = []
        with without_autocast(u):
            for rows in work.rows:
                state = A.new_zeros(rows.stop - rows.start, *work.A.shape)
                for cut in work.cuts:
                    kept += [state] * keep
                    state = work.forward(*(v[rows, cut] for v in (u, dt, B, C, y)), state)
        if D is not None:
            y += D * u
        ctx.save_for_backward(u, dt, A, B, C, D, *kept)
        ctx.chunk, ctx.reverse = chunk, reverse
        return y

    @staticmethod
    def backward(ctx, dy):
        """Go back chunk by chunk with the gradient of the state between them."""
        u, dt, A, B, C, D, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # asked for with create_graph=True
            scan = partial(selective_scan_recurrence, reverse=ctx.reverse)
            return *plain_backward(scan, (u, dt, A, B, C, D), dy), None, None, None
        work = _SelectiveChunks(u, A, ctx.chunk, ctx.reverse)
        du, ddt, dB, dC = (torch.empty(v.shape, dtype=v.dtype, device=v.device)
                           for v in (u, dt, B, C))  # fmt: skip
        dA, dD = torch.zeros_like(A), None
        with without_autocast(u):
            for rows in work.rows[::-1]:
                dstate = torch.zeros_like(kept[-1])
                for cut in work.cuts[::-1]:
                    parts = (v[rows, cut] for v in (u, dt, B, C, dy, du, ddt, dB, dC))
                    dA += work.backward(*parts, kept.pop(), dstate)
        if D is not None:
            dD = (dy * u).sum((0, 1))
            du += D * dy
        return du, ddt, dA, dB, dC, dD, None, None, None


class _SelectiveChunks:
    """One chunk at a time, in buffers that all chunks share, some rows of the batch at once.

    In the buffers time comes first, so that the states of one step are one block of memory, and
    channels last, so that a processor's vectors run along them: states are (b, n, channels).
    """

    def __init__(self, u, A, chunk, reverse):
        b, length, _ = u.shape
        self.cuts, self.reverse, self.buffers = cuts(length, chunk, reverse), reverse, {}
        self.A = A.T.contiguous()
        self.A_2 = self.A / math.log(2)  # logarithms to the base two
        self.rows = slices(b, A.numel(), CACHED_STATES, u.device)
        self.most = min(chunk, length) + 1, self.rows[0].stop

    def room(self, name: str, q: int, b: int) -> Tensor:
        """Return a shared buffer (q, b, n, channels)."""
        if name not in self.buffers:
            self.buffers[name] = self.A.new_empty(*self.most, *self.A.shape)
        return self.buffers[name][:q, :b]

    def states(self, dt, fed, B, state):
        """Return the decays, the states before each step and those after it."""
        q, b = dt.shape[:2]
        decay, h = self.room("decay", q, b), self.room("h", q + 1, b)
        earlier, after = (h[1:], h[:-1]) if self.reverse else (h[:-1], h[1:])
        torch.mul(dt[:, :, None], self.A_2, out=decay).exp2_()
        torch.mul(fed[:, :, None], B[..., None], out=after)
        h[-1 if self.reverse else 0] = state
        for t in range(q)[::-1] if self.reverse else range(q):
            after[t].addcmul_(decay[t], earlier[t])
        return decay, earlier, after

    def forward(self, u, dt, B, C, y, state):
        """Write y (b q channels) and return the state behind the chunk."""
        u, dt, B, C, y = (v.transpose(0, 1) for v in (u, dt, B, C, y))
        _, _, h = self.states(dt, dt * u, B, state)
        y.copy_((C[:, :, None] @ h)[:, :, 0])
        return h[0 if self.reverse else -1].clone()

    def backward(self, u, dt, B, C, dy, du, ddt, dB, dC, state, dstate):
        """Write the gradients and return that of A; turn `dstate` into that before the chunk."""
        given = u, dt, B, C, dy, du, ddt, dB, dC
        u, dt, B, C, dy, du, ddt, dB, dC = (v.transpose(0, 1) for v in given)
        fed = dt * u
        decay, earlier, h = self.states(dt, fed, B, state)
        g = self.room("g", *dt.shape[:2])  # gradient of the states
        torch.mul(dy[:, :, None], C[..., None], out=g)
        order = range(len(g)) if self.reverse else range(len(g))[::-1]
        g[order[0]] += dstate
        for later, t in zip(order, order[1:], strict=False):
            g[t].addcmul_(decay[later], g[later])
        torch.mul(decay[order[-1]], g[order[-1]], out=dstate)
        dC.copy_((dy[:, :, None] @ h.mT)[:, :, 0])
        dB.copy_((fed[:, :, None] @ g.mT)[:, :, 0])
        dfed = (B[:, :, None] @ g)[:, :, 0]
        log_decay = g.mul_(decay).mul_(earlier)  # gradient of dt_t A
        ddt.copy_(torch.mul(log_decay, self.A, out=decay).sum(2) + dfed * u)
        torch.mul(dfed, dt, out=du)
        return log_decay.mul_(dt[:, :, None]).sum((0, 1)).T
