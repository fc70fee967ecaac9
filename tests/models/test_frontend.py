"""Stem and branches: the original's sizes, and padding that changes nothing."""

import pytest
import torch

from ecgbook import leads
from ecgbook.models import ConvStem, LeadBranches
from ecgbook.models.frontend import follow_mask


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


class Nothing(torch.nn.Module):
    def forward(self, tokens, token_mask):
        return tokens


def branches(block=Nothing, **arguments):
    torch.manual_seed(0)
    made = LeadBranches({name: block() for name in leads.LEAD_GROUPS}, **arguments)
    for _ in range(3):
        made(torch.randn(4, 1024, 12))
    return made.eval()


def test_each_branch_sees_its_three_leads_and_no_other():
    made = branches(width=8, d_model=16, padding=7)
    x = torch.randn(1, 512, 12, requires_grad=True)
    tokens, _ = made(x)
    assert tokens.shape == (1, made.stems["limb"](x[..., :3])[0].shape[1], 4, 16)
    for i, names in enumerate((("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"),
                               ("V4", "V5", "V6"))):  # fmt: skip
        (gradient,) = torch.autograd.grad(tokens[:, :, i].sum(), x, retain_graph=True)
        seen = torch.nonzero(gradient.abs().sum((0, 1))).flatten().tolist()
        assert [leads.LEADS[j] for j in seen] == list(names)


def test_each_branch_is_a_stem_of_its_own_with_its_block_behind():
    class Negative(torch.nn.Module):
        def forward(self, tokens, token_mask):
            return -tokens * token_mask[..., None]

    made = branches(Negative, width=8, d_model=16, padding=100)
    x = torch.randn(2, 1000, 12)
    mask = torch.arange(1000).expand(2, -1) < torch.tensor([[1000], [600]])
    tokens, token_mask = made(x, mask)
    for i, (name, group) in enumerate(leads.LEAD_GROUPS.items()):
        expected, expected_mask = made.stems[name](x[..., leads.index(group)], mask)
        assert torch.equal(tokens[:, :, i], -expected * expected_mask[..., None])
        assert torch.equal(token_mask, expected_mask)
    whole = ConvStem(12, 8, 16, 100)
    assert torch.equal(token_mask, whole(x, mask)[1])  # so that they can be joined
    weights = [stem.conv1.weight for stem in made.stems.values()]
    assert all((a != b).any() for a, b in zip(weights, weights[1:], strict=False))


def test_a_branch_stem_has_the_parameters_of_the_drawing():
    full = LeadBranches({name: Nothing() for name in leads.LEAD_GROUPS})
    assert [sum(p.numel() for p in s.parameters()) for s in full.stems.values()] == [743_680] * 4


def test_a_group_keeps_the_leads_that_are_there():
    names = "V2", "MCL", "II", "V1", "aVF"
    made = LeadBranches({g: Nothing() for g in ("limb", "augmented", "anterior")}, 8, 16, 7, names)
    x = torch.randn(1, 512, 5, requires_grad=True)
    tokens, _ = made.eval()(x)
    assert tokens.shape[2:] == (3, 16)
    for i, columns in enumerate(([2], [4], [3, 0])):
        (gradient,) = torch.autograd.grad(tokens[:, :, i].sum(), x, retain_graph=True)
        assert gradient.abs().sum((0, 1)).nonzero().flatten().tolist() == sorted(columns)
        torch.testing.assert_close(
            tokens[:, :, i], list(made.stems.values())[i](x[..., columns])[0]
        )
    with pytest.raises(ValueError, match="for limb found, for limb, augmented, anterior wanted"):
        LeadBranches({"limb": Nothing()}, leads=names)
    with pytest.raises(
        ValueError, match="V1, V2 of 1 lead groups found, .* use_multi_branch=False"
    ):
        LeadBranches({"anterior": Nothing()}, leads=("V1", "V2"))


def test_blocks_must_be_named_for_the_four_groups():
    with pytest.raises(ValueError, match="for limb, chest found, for limb, augmented, anterior"):
        LeadBranches({"limb": Nothing(), "chest": Nothing()})
