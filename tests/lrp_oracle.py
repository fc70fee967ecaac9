"""Layer-wise relevance propagation written out layer by layer in NumPy, without any gradient.

Each layer computes its output and returns, with it, the function that takes the relevance of the
output to that of the input: every input gets the part of an output's relevance that its
contribution is of the output. Relevance of biases goes to a ledger. One record, no batch axis;
parameters are float64 arrays by their names in the state dict.
"""

import math

import numpy as np


def parameters(module):
    return {k: v.detach().double().numpy() for k, v in module.state_dict().items()}


def under(p, prefix):
    return {k[len(prefix) :]: v for k, v in p.items() if k.startswith(prefix)}


def share(R, z):
    """Relevance for each unit of contribution; nothing flows where nothing came from."""
    return np.divide(R, z, out=np.zeros(np.broadcast(R, z).shape), where=z != 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):  # relevance passes: the output is one input times what counts as a constant
    return x * sigmoid(x)


def gelu(x):
    return x * np.vectorize(lambda v: (1 + math.erf(v / math.sqrt(2))) / 2)(x)


def norm(x, weight, eps=1e-5):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def linear(x, w, b, ledger):
    z = x @ w.T if b is None else x @ w.T + b

    def back(R):
        s = share(R, z)
        if b is not None:
            ledger.append((b * s).sum())
        return x * (s @ w)

    return z, back


def add(x, y):
    z = x + y
    return z, lambda R: (x * share(R, z), y * share(R, z))


def conv(x, w, b, stride, padding, strength, ledger):
    """Convolve (channels, length); contributions of the sign of the output count for more."""
    out, channels, width = w.shape
    padded = np.pad(x, ((0, 0), (padding, padding)))
    steps = (padded.shape[1] - width) // stride + 1
    parts = np.stack([w * padded[None, :, t * stride : t * stride + width] for t in range(steps)])
    z = parts.sum((2, 3)) + b  # (steps, out)

    def back(R):
        sign = np.sign(z)
        favored = parts * (1 + strength * (np.sign(parts) == sign[:, :, None, None]))
        favored_b = b * (1 + strength * (np.sign(b) == sign))
        s = share(R.T, favored.sum((2, 3)) + favored_b)
        ledger.append((favored_b * s).sum())
        R_padded = np.zeros_like(padded)
        for t in range(steps):
            window = slice(t * stride, t * stride + width)
            R_padded[:, window] += (favored[t] * s[t][:, None, None]).sum(0)
        return R_padded[:, padding : padding + x.shape[1]]

    return z.T, back


def flat_conv(x, w, b, stride, padding):
    """Convolve, and share relevance equally among the inputs in the window, biases among them."""
    z, _ = conv(x, w, b, stride, padding, 0, [])
    channels, width = w.shape[1:]

    def back(R):
        R_x = np.zeros_like(x)
        for t, total in enumerate(R.sum(0)):
            first = t * stride - padding
            window = slice(max(first, 0), min(first + width, x.shape[1]))
            R_x[:, window] += total / (channels * (window.stop - window.start))
        return R_x

    return z, back


def folded(p, number, eps=1e-5):
    """Return weight and bias of a convolution with the batch normalization behind it."""
    n = under(p, f"norm{number}.")
    scale = n["weight"] / np.sqrt(n["running_var"] + eps)
    return p[f"conv{number}.weight"] * scale[:, None, None], n["bias"] - n["running_mean"] * scale


def stem(p, x, padding, strength, flat, ledger):
    if flat:
        h, back1 = flat_conv(x.T, *folded(p, 1), 3, 2)
    else:
        h, back1 = conv(x.T, *folded(p, 1), 3, 2, strength, ledger)
    y, back2 = conv(np.maximum(h, 0), *folded(p, 2), 4, padding, strength, ledger)
    return np.maximum(y, 0).T, lambda R: back1(back2(R.T)).T


def conv_block(p, x, strength, ledger):
    same = p["conv1.weight"].shape[2] // 2
    h, back1 = conv(x.T, *folded(p, 1), 1, same, strength, ledger)
    y, back2 = conv(np.maximum(h, 0), *folded(p, 2), 1, same, strength, ledger)
    z, split = add(x, y.T)

    def back(R):
        R_x, R_y = split(R)
        return R_x + back1(back2(R_y.T)).T

    return np.maximum(z, 0), back


def depthwise(x, w, b, ledger):
    """Convolve (length, channels) causally, each channel alone."""
    length, width = len(x), w.shape[-1]
    parts = np.zeros((length, width, x.shape[1]))
    for t in range(length):
        for k in range(width):
            s = t - width + 1 + k
            if s >= 0:
                parts[t, k] = w[:, 0, k] * x[s]
    z = parts.sum(1) + b

    def back(R):
        s = share(R, z)
        ledger.append((b * s).sum())
        R_x = np.zeros_like(x)
        for t in range(length):
            for k in range(width):
                if t - width + 1 + k >= 0:
                    R_x[t - width + 1 + k] += parts[t, k] * s[t]
        return R_x

    return z, back


def scan_by_states(x, dt, A, B, C, D):
    """Scan ``h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t``, ``y_t = h_t C_t + D x_t``.

    x, dt (length, channels); A (channels, d_state); B, C (length, d_state); D (channels,).
    """
    h, states, fed = np.zeros_like(A), [np.zeros_like(A)], []
    for t in range(len(x)):
        fed.append((dt[t] * x[t])[:, None] * B[t])
        h = np.exp(dt[t][:, None] * A) * h + fed[t]
        states.append(h)
    read = np.stack(states[1:]) * C[:, None]
    y = read.sum(-1) + D * x

    def back(R):
        s, R_x, R_h = share(R, y), np.zeros_like(x), np.zeros_like(A)
        for t in reversed(range(len(x))):
            R_h = R_h + read[t] * s[t][:, None]  # from the output and from the next state
            per_state = share(R_h, states[t + 1])
            R_x[t] = (fed[t] * per_state).sum(-1) + D * x[t] * s[t]
            R_h = (states[t + 1] - fed[t]) * per_state
        return R_x

    return y, back


def scan_by_matrix(x, dt, A, B, C, D):
    """Scan as one matrix a channel: ``M_ts = sum of C_t exp(sum of dt_r A) B_s dt_s``."""
    length, channels = x.shape
    M = np.zeros((channels, length, length))
    for t in range(length):
        for s in range(t + 1):
            decay = np.exp(dt[s + 1 : t + 1].sum(0)[:, None] * A)
            M[:, t, s] = (C[t] * decay * B[s]).sum(-1) * dt[s]
        M[:, t, t] += D
    y = np.einsum("cts,sc->tc", M, x)
    return y, lambda R: x * np.einsum("cts,tc->sc", M, share(R, y))


SCANS = {"states": scan_by_states, "matrix": scan_by_matrix}


def mamba2(p, h, ledger, route):
    d, heads = len(p["norm.weight"]), len(p["A_log"])
    n = (len(p["conv1d.bias"]) - d) // 2
    w_z, w_x, w_rest = np.split(p["in_proj.weight"], [d, 2 * d])
    (z, back_z), (x, back_x) = linear(h, w_z, None, ledger), linear(h, w_x, None, ledger)
    BC, dt = np.split(h @ w_rest.T, [2 * n], -1)
    w, b = p["conv1d.weight"], p["conv1d.bias"]
    x, back_conv = depthwise(x, w[:d], b[:d], ledger)
    B, C = np.split(silu(depthwise(BC, w[d:], b[d:], [])[0]), 2, -1)
    dt, A, D = np.log1p(np.exp(dt + p["dt_bias"])), -np.exp(p["A_log"]), p["D"]
    dt, A, D = (np.repeat(v, d // heads, -1) for v in (dt, A, D))
    y, back_scan = SCANS[route](silu(x), dt, np.repeat(A[:, None], n, 1), B, C, D)
    out, back_out = linear(norm(y * silu(z), p["norm.weight"]), p["out_proj.weight"], None, ledger)

    def back(R):
        R = back_out(R) / 2  # half to the signal, half to the gate
        return back_x(back_conv(back_scan(R))) + back_z(R)

    return out, back


def mamba2_block(p, x, ledger, route):
    """Follow a `Bidirectional` block, or `Unidirectional` where there is one mixer."""
    h = norm(x, p["norm.weight"])
    if "mixer.D" in p:
        y, back_mixer = mamba2(under(p, "mixer."), h, ledger, route)
    else:
        ahead, back_ahead = mamba2(under(p, "ahead."), h, ledger, route)
        behind, back_behind = mamba2(under(p, "back."), h[::-1], ledger, route)
        both = np.concatenate([ahead, behind[::-1]], -1)
        y, back_fuse = linear(both, p["fuse.weight"], p["fuse.bias"], ledger)

        def back_mixer(R):
            R_ahead, R_behind = np.split(back_fuse(R), 2, -1)
            return back_ahead(R_ahead) + back_behind(R_behind[::-1])[::-1]

    out, split = add(x, y)

    def back(R):
        R_x, R_y = split(R)
        return R_x + back_mixer(R_y)

    return out, back


def selective(p, x, ledger, route, suffix, rates, skip):
    """Convolve, select and scan forward, with the parameters that bear a suffix."""
    x, back_conv = depthwise(x, p[f"conv1d{suffix}.weight"], p[f"conv1d{suffix}.bias"], ledger)
    u, (rank, n) = silu(x), (p[f"dt_proj{suffix}.weight"].shape[1], p[rates].shape[1])
    dt, B, C = np.split(u @ p[f"x_proj{suffix}.weight"].T, [rank, rank + n], -1)
    dt = dt @ p[f"dt_proj{suffix}.weight"].T + p[f"dt_proj{suffix}.bias"]
    return u, np.log1p(np.exp(dt)), -np.exp(p[rates]), B, C, p[skip], back_conv


def vision_mamba_block(p, x, ledger, route, direction):
    p, weight = under(p, "mixer."), p["norm.weight"]
    h = norm(x, weight)
    w_x, w_z = np.split(p["in_proj.weight"], 2)
    (s, back_s), (z, back_z) = linear(h, w_x, None, ledger), linear(h, w_z, None, ledger)
    u, dt, A, B, C, D, back_conv = selective(p, s, ledger, route, "", "A_log", "D")
    y, back_ahead = SCANS[route](u, dt, A, B, C, D)
    if direction == "v1":
        A = -np.exp(p["A_b_log"])
        other, back_other = SCANS[route](u[::-1], dt[::-1], A, B[::-1], C[::-1], D)
    elif direction == "v2":
        *chosen, back_conv_b = selective(p, s[::-1], ledger, route, "_b", "A_b_log", "D_b")
        other, back_other = SCANS[route](*chosen)
    if direction != "none":
        y, split_scans = add(y, other[::-1])
    o, back_out = linear(y * silu(z), p["out_proj.weight"], None, ledger)
    out, split = add(x, o)

    def back(R):
        R_x, R = split(R)
        R = back_out(R) / 2
        if direction == "none":
            R_s = back_conv(back_ahead(R))
        else:
            R_ahead, R_other = split_scans(R)
            R_ahead, R_other = back_ahead(R_ahead), back_other(R_other[::-1])[::-1]
            if direction == "v1":
                R_s = back_conv(R_ahead + R_other)
            else:
                R_s = back_conv(R_ahead) + back_conv_b(R_other[::-1])[::-1]
        return R_x + back_s(R_s) + back_z(R)

    return out, back


def feed_forward(p, x, ledger):
    h, back1 = linear(norm(x, p["norm.weight"]), p["linear1.weight"], p["linear1.bias"], ledger)
    y, back2 = linear(gelu(h), p["linear2.weight"], p["linear2.bias"], ledger)
    z, split = add(x, y)

    def back(R):
        R_x, R_y = split(R)
        return R_x + back1(back2(R_y))

    return z, back


def attention_block(p, x, n_heads, ledger):
    length, d = x.shape
    h = norm(x, p["norm.weight"])
    w, b = (np.split(p[f"in_proj.{name}"], 3) for name in ("weight", "bias"))
    q, k = (h @ w[i].T + b[i] for i in (0, 1))
    v, back_v = linear(h, w[2], b[2], ledger)
    q, k, values = (a.reshape(length, n_heads, -1) for a in (q, k, v))
    scores = np.exp(np.einsum("thd,shd->hts", q, k) / math.sqrt(d // n_heads))
    P = scores / scores.sum(-1, keepdims=True)
    y = np.einsum("hts,shd->thd", P, values)
    o, back_out = linear(y.reshape(length, d), p["out_proj.weight"], p["out_proj.bias"], ledger)
    z, split = add(x, o)
    out, back_ff = feed_forward(under(p, "feed_forward."), z, ledger)

    def back(R):
        R_x, R = split(back_ff(R))
        s = share(back_out(R).reshape(y.shape), y)
        R_v = values * np.einsum("hts,thd->shd", P, s)
        return R_x + back_v(R_v.reshape(length, d))

    return out, back


def explain(model, x, target, strength, route="states", flat=False):
    """Return the relevance of a record (samples, 12) and of all biases, and the logit.

    `strength` is that of gamma; `route` says how the scans are written out.
    """
    p, config, ledger = parameters(model), model.config, []
    x = x / model.scale.unit_mv  # a constant factor: relevance passes
    padding = config["stem_padding"]
    steps = []
    tokens, back_stem = stem(under(p, "stem."), x, padding, strength, flat, ledger)

    if config.get("use_multi_branch"):
        branches = []
        for number, name in enumerate(("limb", "augmented", "anterior", "lateral")):
            part = under(p, f"branches.stems.{name}.")
            group = x[:, 3 * number : 3 * number + 3]
            y, back_y = stem(part, group, padding, strength, flat, ledger)
            y, back_block = mamba2_block(under(p, f"branches.blocks.{name}."), y, ledger, route)
            branches.append((y, back_y, back_block))
        joined = np.concatenate([tokens, *(y for y, *_ in branches)], -1)
        tokens, back_fusion = linear(joined, p["fusion.weight"], p["fusion.bias"], ledger)

        def back_front(R):
            R_tokens, *rest = np.split(back_fusion(R), 5, -1)
            ways = zip(rest, branches, strict=True)
            groups = [back_y(back_block(R_y)) for R_y, (_, back_y, back_block) in ways]
            return back_stem(R_tokens) + np.concatenate(groups, -1)

        steps.append(back_front)
    else:
        steps.append(back_stem)

    for i in range(config["n_layers"]):
        block = under(p, f"blocks.{i}.")
        if type(model).__name__ == "CNNBaseline":
            tokens, back = conv_block(block, tokens, strength, ledger)
            steps.append(back)
            continue
        if "direction" in config:
            tokens, back = vision_mamba_block(block, tokens, ledger, route, config["direction"])
            steps.append(back)
            continue
        tokens, back = mamba2_block(block, tokens, ledger, route)
        steps.append(back)
        tokens, back = feed_forward(under(p, f"feed_forwards.{i}."), tokens, ledger)
        steps.append(back)
    if config.get("use_attention"):
        heads = config["n_heads"]
        tokens, back = attention_block(under(p, "attention."), tokens, heads, ledger)
        steps.append(back)
    if "norm.weight" in p:
        tokens = norm(tokens, p["norm.weight"])

    pooled = tokens.mean(0)
    logits, back_head = linear(pooled, p["head.weight"], p["head.bias"], ledger)
    R = back_head(np.where(np.arange(len(logits)) == target, logits, 0))
    R = tokens / len(tokens) * share(R, pooled)
    for back in reversed(steps):
        R = back(R)
    return R, sum(ledger), logits[target]
