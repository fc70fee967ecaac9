"""Self-attention: PyTorch's own as the oracle, masks that hide, and no sense of order."""

import pytest
import torch

from ecgbook.models import Attend, SelfAttention


def block(d_model=24, n_heads=4):
    torch.manual_seed(0)
    return SelfAttention(d_model, n_heads).double().eval()


def some_tokens(lengths=(9, 6), d_model=24):
    torch.manual_seed(1)
    x = torch.randn(len(lengths), max(lengths), d_model, dtype=torch.float64)
    return x, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def test_values_and_gradients_are_those_of_torch():
    ours, (x, mask) = block(), some_tokens()
    library = torch.nn.MultiheadAttention(24, 4, batch_first=True, dtype=torch.float64)
    library.in_proj_weight = ours.in_proj.weight
    library.in_proj_bias = ours.in_proj.bias
    library.out_proj = ours.out_proj

    def by_library(x):
        h = ours.norm(x)
        return ours.feed_forward(x + library(h, h, h, key_padding_mask=~mask)[0])

    results = []
    for forward in (lambda x: ours(x, mask), by_library):
        leaf = x.clone().requires_grad_()
        y = forward(leaf)
        y[mask].square().sum().backward()
        results.append((y[mask], leaf.grad, ours.in_proj.weight.grad.clone()))
        ours.zero_grad()
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-12)


def test_the_weights_are_a_softmax_over_valid_tokens():
    ours, (x, mask) = block(), some_tokens()
    q, k, v = ours.heads(x)
    weights = ours.attend.weights(q, k, mask)
    assert weights.shape == (2, 4, 9, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert (weights[1, :, :, 6:] == 0).all() and (weights[1, :, :, :6] > 0).all()
    by_hand = ((q[1, 2, 3] * k[1, 2, :6]).sum(-1) / 6**0.5).exp()  # one row, heads of 6
    torch.testing.assert_close(weights[1, 2, 3, :6], by_hand / by_hand.sum())
    torch.testing.assert_close(ours.attend(q, k, v, mask), weights @ v)


def test_padding_changes_no_token_and_the_mask_is_why():
    ours, (x, mask) = block(), some_tokens()
    alone = ours(x[1:, :6])
    torch.testing.assert_close(ours(x, mask)[1:, :6], alone, atol=1e-12, rtol=0)
    assert (ours(x)[1:, :6] - alone).abs().max() > 1e-3


def heads(dtype=torch.float64):
    torch.manual_seed(2)
    q, k, v, pull = torch.randn(4, 2, 3, 50, 8, dtype=dtype)
    return [x.requires_grad_() for x in (q, k, v)], pull, some_tokens((50, 21))[1]


@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_is_the_average_with_the_weights(masked):
    leaves, pull, mask = heads()
    mask = mask if masked else None
    q, k, v = leaves
    found, wanted = Attend()(q, k, v, mask), Attend().weights(q, k, mask) @ v
    with torch.no_grad():
        torch.testing.assert_close(Attend()(q, k, v, mask), wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    for a, b in zip(*(torch.autograd.grad(y, leaves, pull) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_second_derivatives_of_attention_are_right():
    (q, k, v), _, _ = heads()
    few = [x.detach()[:1, :1, :4, :2].requires_grad_() for x in (q, k, v)]
    mask = torch.tensor([[True, True, True, False]])
    assert torch.autograd.gradgradcheck(lambda q, k, v: Attend()(q, k, v, mask), few)


def test_no_weights_are_stored(monkeypatch):
    def refuse(*_):
        raise AssertionError("the weights were computed")

    monkeypatch.setattr(Attend, "weights", refuse)
    (q, k, v), _, mask = heads()
    torch.autograd.grad(Attend()(q, k, v, mask).sum(), (q, k, v))


def test_a_record_without_signal_gives_no_nan():
    ours, (x, mask) = block(), some_tokens((9, 0))
    x.requires_grad_()
    y = ours(x, mask)
    y.sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()


def test_tokens_in_another_order_give_the_same_in_that_order():
    ours, (x, mask) = block(), some_tokens((9, 9))
    order = torch.randperm(9)
    torch.testing.assert_close(ours(x[:, order], mask), ours(x, mask)[:, order])


def test_the_softmax_step_is_a_module_that_can_be_replaced():
    class Uniform(Attend):
        def weights(self, q, k, mask=None):
            return super().weights(torch.zeros_like(q), k, mask)

    ours, (x, mask) = block(), some_tokens()
    before = ours(x, mask)
    ours.attend = Uniform()
    after = ours(x, mask)
    assert (before - after).abs().max() > 1e-3
    mean = ours.heads(x)[2][1, :, :6].mean(1).flatten()
    expected = ours.feed_forward(x[1, 2] + ours.out_proj(mean))
    torch.testing.assert_close(after[1, 2], expected)


def test_half_precision_takes_its_softmax_in_float32():
    q = torch.randn(1, 1, 300, 8, dtype=torch.bfloat16)
    weights = Attend().weights(q, q)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 1, 300), atol=1e-5, rtol=0)
    assert Attend()(q, q, q).dtype == torch.bfloat16


def test_parameters_at_full_size():
    counts = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in SelfAttention(384, 4).named_children()
    }
    assert counts.pop("in_proj") + counts.pop("out_proj") == 591_360
    assert counts == {"norm": 384, "attend": 0, "feed_forward": 1_181_952}


@pytest.mark.parametrize("n_heads", [0, 5])
def test_heads_that_do_not_divide_the_channels_are_refused(n_heads):
    with pytest.raises(ValueError, match=f"n_heads={n_heads} found, a divisor of d_model=24"):
        block(n_heads=n_heads)
