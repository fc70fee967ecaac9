"""State-space layers by their equations, in loops over time, and promises that all blocks keep."""

import torch
from torch.nn.functional import silu

from ecgbook.scan import selective_scan_recurrence, ssd_recurrence


def scramble(module, seed=0):
    """Return the module in float64 with every parameter moved, so that none is 1 or repeats."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            parameter += 0.2 * noise
        for name, parameter in module.named_parameters():
            if name.endswith(("dt_bias", "dt_proj.bias", "dt_proj_b.bias")):
                parameter += 1  # steps long enough for the states to matter
    return module


def tokens(length=9, d_model=16, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, d_model, dtype=torch.float64, generator=generator)


def under(module, prefix=""):
    """Return the parameters below a prefix, by the rest of their names."""
    return {k[len(prefix) :]: p for k, p in module.named_parameters() if k.startswith(prefix)}


def slow_conv(x, weight, bias, ahead=0):
    width, length = weight.shape[-1], x.shape[1]
    rows = []
    for t in range(length):
        row = bias
        for k in range(width):
            s = t + ahead - width + 1 + k
            if 0 <= s < length:
                row = row + weight[:, 0, k] * x[:, s]
        rows.append(row.expand(len(x), -1))
    return torch.stack(rows, 1)


def slow_softplus(v):
    return torch.log1p(torch.exp(v))


def slow_norm(x, weight, groups=1, eps=1e-5):
    parts = []
    for part in x.split(x.shape[-1] // groups, -1):
        parts.append(part / torch.sqrt((part * part).mean(-1, keepdim=True) + eps))
    return torch.cat(parts, -1) * weight


def slow_selective(p, x, suffix="", rates="A_log"):
    """Convolve, select and scan forward, with the parameters that bear a suffix."""
    u = silu(slow_conv(x, p[f"conv1d{suffix}.weight"], p[f"conv1d{suffix}.bias"]))
    rank, n = p[f"dt_proj{suffix}.weight"].shape[1], p[rates].shape[1]
    selected = u @ p[f"x_proj{suffix}.weight"].T
    dt, B, C = selected[..., :rank], selected[..., rank : rank + n], selected[..., rank + n :]
    dt = slow_softplus(dt @ p[f"dt_proj{suffix}.weight"].T + p[f"dt_proj{suffix}.bias"])
    return u, dt, B, C


def slow_mamba(p, h):
    xz = h @ p["in_proj.weight"].T
    x, z = xz[..., : xz.shape[-1] // 2], xz[..., xz.shape[-1] // 2 :]
    u, dt, B, C = slow_selective(p, x)
    y = selective_scan_recurrence(u, dt, -torch.exp(p["A_log"]), B, C, p["D"])
    return (y * silu(z)) @ p["out_proj.weight"].T


def slow_vision_mamba(p, h, direction):
    xz = h @ p["in_proj.weight"].T
    x, z = xz[..., : xz.shape[-1] // 2], xz[..., xz.shape[-1] // 2 :]
    u, dt, B, C = slow_selective(p, x)
    y = selective_scan_recurrence(u, dt, -torch.exp(p["A_log"]), B, C, p["D"]) * silu(z)
    if direction == "v1":
        flipped = (v.flip(1) for v in (u, dt))
        rest = -torch.exp(p["A_b_log"]), B.flip(1), C.flip(1), p["D"]
        y = y + selective_scan_recurrence(*flipped, *rest).flip(1) * silu(z)
    if direction == "v2":
        u, dt, B, C = slow_selective(p, x.flip(1), "_b", "A_b_log")
        back = selective_scan_recurrence(u, dt, -torch.exp(p["A_b_log"]), B, C, p["D_b"])
        y = y + (back * silu(z.flip(1))).flip(1)
    return y @ p["out_proj.weight"].T


def slow_mamba2(p, h, n_groups=1):
    d_inner, heads = len(p["norm.weight"]), len(p["A_log"])
    gn = (len(p["conv1d.bias"]) - d_inner) // 2
    projected = h @ p["in_proj.weight"].T
    z, x, B, C, dt = projected.split([d_inner, d_inner, gn, gn, heads], -1)
    mixed = slow_conv(torch.cat([x, B, C], -1), p["conv1d.weight"], p["conv1d.bias"])
    x, B, C = silu(mixed).split([d_inner, gn, gn], -1)
    dt = slow_softplus(dt + p["dt_bias"])
    shape = len(h), h.shape[1], n_groups, -1
    x = x.reshape(len(h), h.shape[1], heads, -1)
    y = ssd_recurrence(x, dt, -p["A_log"].exp(), B.reshape(shape), C.reshape(shape), p["D"])
    gated = y.reshape(z.shape) * silu(z)
    return slow_norm(gated, p["norm.weight"], n_groups) @ p["out_proj.weight"].T


def slow_shared_mamba2(p, h, n_groups=1):
    d_inner, heads = len(p["norm.weight"]), len(p["A_log"])
    gn = (len(p["conv1d.bias"]) - d_inner) // 4
    projected = h @ p["in_proj.weight"].T
    z, xbc, dt_f, dt_b = projected.split([d_inner, d_inner + 4 * gn, heads, heads], -1)
    width = p["conv1d.weight"].shape[-1]
    mixed = silu(slow_conv(xbc, p["conv1d.weight"], p["conv1d.bias"], ahead=width // 2))
    x, *selected = mixed.split([d_inner, gn, gn, gn, gn], -1)
    shape = len(h), h.shape[1], n_groups, -1
    B_f, C_f, B_b, C_b = (v.reshape(shape) for v in selected)
    x = x.reshape(len(h), h.shape[1], heads, -1)
    A = -p["A_log"].exp()
    y = ssd_recurrence(x, slow_softplus(dt_f + p["dt_bias"]), A, B_f, C_f)
    back = [v.flip(1) for v in (x, slow_softplus(dt_b + p["dt_bias"]))]
    y = y + ssd_recurrence(*back, A, B_b.flip(1), C_b.flip(1)).flip(1)
    y = y + p["D"][:, None] * x
    gated = y.reshape(z.shape) * silu(z)
    return slow_norm(gated, p["norm.weight"], n_groups) @ p["out_proj.weight"].T


def slow_mamba3(p, h, n_groups=1):
    """Follow the paper's complex recurrence: pairs of states are numbers, rotation is in alpha."""
    heads, _, n = p["B_bias"].shape
    d_inner, pairs, (batch, length) = p["out_proj.weight"].shape[1], n // 4, h.shape[:2]
    sizes = [d_inner, d_inner, n_groups * n, n_groups * n, heads, heads, heads, pairs]
    z, x, B, C, dt, rate, share, angle = (h @ p["in_proj.weight"].T).split(sizes, -1)
    dt, share = slow_softplus(dt + p["dt_bias"]), 1 / (1 + torch.exp(-share))
    A = -torch.where(rate < 0, 1 / (1 + rate.abs()), 1 + rate.abs()).clamp(min=1e-4)
    x = x.reshape(batch, length, heads, -1)

    def of_heads(v, norm, bias):
        v = slow_norm(v.reshape(batch, length, n_groups, n), norm)
        return v.repeat_interleave(heads // n_groups, 2) + bias[:, 0]

    def numbers(v):  # (..., n) as pairs that turn, and those that do not: (..., n - pairs)
        turning = torch.view_as_complex(v[..., : 2 * pairs].unflatten(-1, (-1, 2)).contiguous())
        return torch.cat([turning, v[..., 2 * pairs :] + 0j], -1)

    B = numbers(of_heads(B, p["B_norm.weight"], p["B_bias"]))
    C = numbers(of_heads(C, p["C_norm.weight"], p["C_bias"]))
    still = torch.zeros(batch, length, n - 2 * pairs, dtype=h.dtype)
    speed = torch.cat([torch.pi * torch.tanh(angle), still], -1)
    state = before = torch.zeros(batch, heads, x.shape[-1], B.shape[-1], dtype=B.dtype)
    ys = []
    for t in range(length):
        step = dt[:, t, :, None, None]
        alpha = torch.exp(step * A[:, t, :, None, None] - 1j * step * speed[:, t, None, None])
        beta, gamma = (
            (1 - share[:, t, :, None, None]) * step * alpha,
            share[:, t, :, None, None] * step,
        )
        own = x[:, t, ..., None] * B[:, t, :, None]
        state = alpha * state + beta * before + gamma * own
        ys.append((state * C[:, t, :, None].conj()).sum(-1).real + p["D"][:, None] * x[:, t])
        before = own
    y = torch.stack(ys, 1).reshape(z.shape)
    return (y * silu(z)) @ p["out_proj.weight"].T


def check_same(module, fast, slow):
    """Compare two float64 results, and the gradients of every parameter that follow from them."""
    torch.testing.assert_close(fast, slow, atol=1e-11, rtol=1e-10)
    pull = tokens(*slow.shape[1:], seed=7)
    names, parameters = zip(*module.named_parameters(), strict=True)
    grads = [torch.autograd.grad((y * pull).sum(), parameters) for y in (fast, slow)]
    for name, ours, theirs in zip(names, *grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-8, msg=lambda m, n=name: n + m)


def layer_gradients(layer, x):
    """Return the output, and the gradients of input and parameters by their names.

    What the output is multiplied with is the input, a step away; a second output does not count.
    """
    x = x.clone().requires_grad_()
    names, parameters = zip(*layer.named_parameters(), strict=True)
    y = layer(x)
    y = y[0] if isinstance(y, tuple) else y
    grads = torch.autograd.grad((y * x.detach().roll(1, 1)).sum(), [x, *parameters])
    return dict(zip(["y", "x", *names], [y.detach(), *grads], strict=True))


def check_padding(block):
    """Padding on the left, on the right and on both sides changes no token that sees signal."""
    one_way = reaches(block) == "ahead"
    block.float()
    x = tokens(13).float()
    with torch.no_grad():
        alone = block(x)
        for left, right in ((6, 0), (0, 5), (4, 7)):
            padded = torch.full((2, left + 13 + right, 16), 3.0)
            padded[:, left : left + 13] = x
            mask = torch.zeros(padded.shape[:2], dtype=torch.bool)
            mask[:, left : left + 13] = True
            found = block(padded, mask)[:, left : left + 13]
            torch.testing.assert_close(found, alone, atol=1e-6, rtol=0)
            careless = block(padded)[:, left : left + 13]
            unread = left == 0 and one_way
            assert ((careless - alone).abs().max() > 1e-3) != unread


def reaches(block):
    """Say whether the first output feels the last token: "both" ways, or only "ahead"."""
    x = tokens(13)
    moved = x.clone()
    moved[:, -1] += 1
    with torch.no_grad():
        first, last = (block(moved) - block(x)).abs().amax((0, 2))[[0, -1]]
    assert last > 1e-2
    assert first < 1e-13 or first > 1e-9  # Fourier transforms round
    return "both" if first > 1e-9 else "ahead"


def check_gradients(block):
    """Every parameter has a finite gradient that is not zero, in any part that stands alone."""
    block.float()
    block(tokens(13).float()).square().mean().backward()
    for name, parameter in block.named_parameters():
        grad = parameter.grad
        assert grad is not None and grad.isfinite().all(), name
        assert (grad != 0).float().mean() > 0.9, name


def check_low_precision(block):
    """Under bfloat16 autocast the gradient is within 1e-2 of that in float32, each part in 3e-2.

    Gradients of three batches stand side by side, so that no sum that cancels rules the error.
    """
    grads = []
    for enabled in (False, True):
        batches = []
        for seed in (1, 2, 3):
            x = tokens(200, batch=4, seed=seed).float()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                y = block(x)
            loss = (y.float() - x).square().mean()
            batches.append(torch.autograd.grad(loss, list(block.parameters())))
        grads.append(
            [torch.cat([g.flatten() for g in part]) for part in zip(*batches, strict=True)]
        )
    for (name, _), single, low in zip(block.named_parameters(), *grads, strict=True):
        assert (low - single).norm() <= 3e-2 * single.norm(), name
    single, low = map(torch.cat, grads)
    assert (low - single).norm() <= 1e-2 * single.norm()
