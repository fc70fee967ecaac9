"""The stem: the original's sizes, the tokens that see nothing, and padding that changes nothing."""

import pytest
import torch

from ecgbook.frontend import ConvStem, follow_mask


def trained_stem(**arguments):
    torch.manual_seed(0)
    stem = ConvStem(**arguments)
    for _ in range(3):  # running statistics and biases as training leaves them, not 0 and 1
        stem(torch.randn(4, 1024, arguments.get("in_leads", 12)))
    for norm in (stem.norm1, stem.norm2):
        torch.nn.init.normal_(norm.bias)
    return stem.eval()


def test_8192_samples_become_729_tokens_of_384():
    stem = ConvStem()
    tokens, mask = stem(torch.zeros(2, 8192, 12))
    assert tokens.shape == (2, 729, 384) and mask.shape == (2, 729)
    assert stem.conv1(torch.zeros(1, 12, 8192)).shape == (1, 128, 2728)
    assert sum(p.numel() for p in stem.parameters()) == 759_808
    assert sum(p.numel() for p in ConvStem(in_leads=3).parameters()) == 743_680


def test_44_of_729_tokens_see_only_padding():
    stem = trained_stem()
    x = torch.randn(1, 8192, 12, requires_grad=True)
    tokens, mask = stem(x)
    dead = torch.nonzero(~mask[0]).flatten().tolist()
    assert dead == [*range(22), *range(707, 729)]
    for token in (0, 21, 22, 364, 706, 707, 728):
        (gradient,) = torch.autograd.grad(tokens[0, token].sum(), x, retain_graph=True)
        assert bool((gradient != 0).any()) == bool(mask[0, token]), token


def test_a_ten_second_record_lights_420_tokens_of_which_alone_it_would_have_419():
    stem = trained_stem()
    mask = torch.arange(8192)[None] < 5000
    _, alone = stem(torch.zeros(1, 5000, 12))
    assert stem.masks(mask)[1].sum() == alone.sum() == 419
    x = torch.zeros(1, 12, 8192)
    x[..., :5000] = 1  # all-positive weights on the record alone: what comes out has seen it
    torch.nn.init.ones_(stem.conv1.weight), torch.nn.init.ones_(stem.conv2.weight)
    assert (stem.conv2(stem.conv1(x))[0, 0] > 0).sum() == 420


def test_the_tutorial_size_gives_170_tokens():
    stem = ConvStem(width=32, d_model=64, padding=7)
    assert stem(torch.zeros(1, 2048, 12))[0].shape == (1, 170, 64)
    assert sum(p.numel() for p in stem.parameters()) == 36_288


@pytest.mark.parametrize("padding", [7, 100])
@pytest.mark.parametrize("n", [64, 100, 1000, 1001, 1002, 1003, 1250, 2047, 2048])
def test_padding_changes_no_token(padding, n):
    stem = trained_stem(width=8, d_model=16, padding=padding)
    x = torch.randn(2, n, 12)
    padded = torch.full((2, 2048, 12), 7.0)
    padded[:, :n] = x
    mask = torch.arange(2048).expand(2, -1) < n
    with torch.no_grad():
        (alone, alone_mask), (tokens, token_mask) = stem(x), stem(padded, mask)
    torch.testing.assert_close(tokens[token_mask], alone[alone_mask], atol=1e-6, rtol=0)
    seen = alone_mask.shape[1]
    assert torch.equal(token_mask[:, :seen], alone_mask) and not token_mask[:, seen:].any()


def test_padding_of_nan_changes_no_token():
    stem, x = trained_stem(width=8, d_model=16), torch.randn(1, 1000, 12)
    mask = torch.arange(1000)[None] < 700
    padded = x.masked_fill(~mask[..., None], float("nan"))
    tokens, token_mask = stem(padded, mask)
    assert torch.equal(tokens[token_mask], stem(x, mask)[0][token_mask])


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(14, 3, 2), (15, 4, 7), (15, 4, 100)])
def test_follow_mask_window_by_window(kernel, stride, padding):
    conv = torch.nn.Conv1d(1, 1, kernel, stride, padding)
    for start, end in ((0, 300), (0, 211), (40, 260), (0, 1)):
        mask = (torch.arange(300) >= start) & (torch.arange(300) < end)
        got = follow_mask(mask[None], conv)[0]
        for i in range(len(got)):
            window = range(i * stride - padding, i * stride - padding + kernel)
            sees = any(start <= s < end for s in window)
            within = all(start - padding <= s < end + padding for s in window)
            assert got[i] == (sees and within)
