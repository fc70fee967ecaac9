"""The benchmarks: peers compute what they are named for, and what is measured is what is stored."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mixers import scramble

from ecgbook.leads import LEAD_GROUPS
from ecgbook.models import PRESETS, EnhancedECGMamba2, LeadBranches, Mamba2
from scripts import ROOT, imported

FOLDER = ROOT / "benchmarks"
NAMES = ("method", "peers", "scan", "models", "robust")


@pytest.fixture(scope="module")
def bench():
    """The scripts as modules; their folder is searched only while they are imported."""
    with imported(FOLDER, *NAMES) as scripts:
        yield scripts


@pytest.fixture
def small(bench, monkeypatch):
    """benchmarks/models.py with short records, and memory measured where the test runs."""
    models = bench.models
    monkeypatch.setattr(models, "BATCHES", {"tutorial": 2})
    monkeypatch.setattr(models, "PREPROCESSING", {"tutorial": SimpleNamespace(n_samples=256)})
    monkeypatch.setattr(models, "LENGTHS", [128, 256, 512, 1024])
    monkeypatch.setattr(models, "LAST", 2)
    monkeypatch.setattr(models, "added_mib", lambda *a: [7.0] * len(a[-1]))
    return models


def transformer(bench):
    torch.manual_seed(0)
    model = bench.peers.TransformerClassifier(16, 8, 7, n_layers=2, n_heads=4)
    return scramble(model.double()).eval()


def slow_attention(layer, h, valid):
    """Self-attention of one record (tokens, d_model), a head and a token at a time."""
    q, k, v = F.linear(h, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
    heads = []
    for one in zip(*(m.chunk(layer.num_heads, -1) for m in (q, k, v)), strict=True):
        q, k, v = one[0], one[1][valid], one[2][valid]
        weights = [(k @ row / k.shape[1] ** 0.5).softmax(0) for row in q]
        heads.append(torch.stack([w @ v for w in weights]))
    return layer.out_proj(torch.cat(heads, -1))


def slow_transformer(model, x, mask):
    tokens, token_mask = model.stem(x / 0.25, mask)
    logits = []
    for h, valid in zip(tokens, token_mask, strict=True):
        for block in model.blocks:
            h = h + slow_attention(block.self_attn, block.norm1(h), valid)
            h = h + block.linear2(F.gelu(block.linear1(block.norm2(h))))
        logits.append(model.head(model.norm(h)[valid].mean(0)))
    return torch.stack(logits)


def padded_records():
    torch.manual_seed(1)
    mask = torch.arange(600) < torch.tensor([[600], [390]])
    return torch.randn(2, 600, 12, dtype=torch.float64), mask


def test_the_transformer_peer_equals_its_equations(bench):
    model, (x, mask) = transformer(bench), padded_records()
    assert not model.stem.masks(mask)[1].all()
    torch.testing.assert_close(model(x, mask), slow_transformer(model, x, mask))


def test_the_transformer_peer_does_not_see_padding(bench):
    model, (x, mask) = transformer(bench), padded_records()
    torch.testing.assert_close(model(x, mask)[1:], model(x[1:, :390]))


def test_the_transformer_peer_has_the_stem_and_the_depth_of_the_whole(bench):
    names = "Transformer encoder", "EnhancedECGMamba2"
    peer, ours = (bench.models.make(name, "tutorial") for name in names)
    shapes = [{k: v.shape for k, v in m.stem.state_dict().items()} for m in (peer, ours)]
    assert shapes[0] == shapes[1]
    assert len(peer.blocks) == len(ours.blocks) + 1
    assert peer.blocks[0].linear1.out_features == ours.feed_forwards[0].linear1.out_features


def test_the_measured_model_is_that_of_the_book_at_both_sizes(bench):
    whole, without = (bench.models.make(n, "full") for n in bench.models.WHOLE[:2])
    assert bench.models.parameters(whole) == 29_238_597
    assert bench.models.parameters(without) == 16_394_917
    assert bench.models.token_count(whole, 8192) == 729
    assert isinstance(whole, EnhancedECGMamba2) and len(whole.blocks) == 4
    vision = bench.models.make("ECGVisionMamba", "tutorial")
    assert len(vision.blocks) == 24 and vision.config["direction"] == "v2"
    assert bench.models.make("without attention", "tutorial").attention is None


@pytest.mark.parametrize("training", [False, True])
def test_the_grouped_stem_equals_the_stems_of_the_groups(bench, training):
    torch.manual_seed(0)
    stems = LeadBranches({name: bench.models.Untouched() for name in LEAD_GROUPS}, 8, 16, 7)
    stems = scramble(stems.double()).train(training)
    grouped = bench.peers.GroupedStem([*stems.stems.values()]).train(training)
    x, mask = padded_records()
    (wanted, wanted_mask), (found, found_mask) = stems(x, mask), grouped(x, mask)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(found_mask, wanted_mask)
    pull = torch.randn_like(wanted)
    wanted.backward(pull)
    found.backward(pull)
    for name, parameter in grouped.named_parameters():
        parts = [dict(stem.named_parameters())[name].grad for stem in stems.stems.values()]
        torch.testing.assert_close(parameter.grad, torch.cat(parts))
    wanted = torch.cat([stem.norm2.running_var for stem in stems.stems.values()])
    torch.testing.assert_close(grouped.norm2.running_var, wanted)


def test_grouped_mamba2_equals_its_layers_one_by_one(bench):
    torch.manual_seed(0)
    layers = [scramble(Mamba2(16, d_state=8, head_dim=8).double()) for _ in range(3)]
    grouped = bench.peers.GroupedMamba2(layers)
    h = torch.randn(2, 70, 3, 16, dtype=torch.float64, requires_grad=True)
    pull = torch.randn_like(h)
    found = {}
    for name, layer in (("loop", bench.models.OneByOne(layers)), ("at once", grouped)):
        y = layer(h)
        found[name] = [y, *torch.autograd.grad(y, [h], pull, retain_graph=True)]
        y.backward(pull)
    torch.testing.assert_close(found["at once"], found["loop"])
    for name, get in (
        ("in_proj", lambda m: m.in_proj.weight),
        ("conv_weight", lambda m: m.conv1d.weight),
        ("A_log", lambda m: m.A_log),
        ("norm", lambda m: m.norm.weight),
        ("out_proj", lambda m: m.out_proj.weight),
    ):
        wanted = torch.stack([get(layer).grad for layer in layers])
        torch.testing.assert_close(getattr(grouped, name).grad.reshape(wanted.shape), wanted)


def test_a_peer_that_computes_something_else_stops_the_run(bench):
    wanted = torch.ones(5)
    bench.method.check_equal("peer", wanted * (1 + 1e-7), wanted)
    for other in (wanted * 1.001, wanted * float("nan")):
        with pytest.raises(RuntimeError, match="peer"):
            bench.method.check_equal("peer", other, wanted)


def test_tasks_take_turns_and_the_first_round_does_not_count(bench, monkeypatch):
    seen, now = [], [0.0]
    cost = {"a": iter([50, 1, 2]), "b": iter([60, 3, 8])}

    def task(name):
        seen.append(name)
        now[0] += next(cost[name])

    monkeypatch.setattr(bench.method.time, "thread_time", lambda: now[0])
    times = bench.method.in_turn({n: lambda n=n: task(n) for n in "ab"}, rounds=2)
    assert seen == list("ababab")
    assert times == {"a": [1, 2], "b": [3, 8]}
    assert bench.method.ratio(times["b"], times["a"]) == 3.5


def test_every_model_is_measured_beside_the_whole(small):
    (result,) = small.whole(rounds=1)
    assert result["tokens"] == 21
    assert [row["name"] for row in result["rows"]] == list(small.WHOLE)
    for row in result["rows"]:
        assert row["forward_ms"] > 0 and row["forward_mib"] == 7
        assert row["training_ms"] > row["forward_ms"]
        for kind in ("forward", "training"):
            once = row[f"{kind}_ms"] / result["rows"][0][f"{kind}_ms"]
            assert row[f"{kind}_ratio"] == pytest.approx(once)


def test_time_is_that_of_one_record_of_the_batch(small, monkeypatch):
    monkeypatch.setattr(small, "in_turn", lambda tasks, rounds: {n: [0.3] for n in tasks})
    (result,) = small.whole(rounds=1)
    assert [row["forward_ms"] for row in result["rows"]] == pytest.approx([150] * 5)


def test_the_exponent_is_that_of_the_last_doublings(small, monkeypatch):
    def in_turn(tasks, rounds):
        return {(name, n): [max(n, 256) ** 1.5] * rounds for name, n in tasks}

    monkeypatch.setattr(small, "in_turn", in_turn)
    for row in small.length(rounds=1):
        assert row["exponent"] == pytest.approx(1.5)
        assert row["time_of_2L_over_L"] == pytest.approx([1, 2**1.5, 2**1.5])
        assert row["exponent_fitted_to"] == [256, 512, 1024]


def test_length_runs_every_model_at_every_length(small):
    results = small.length(rounds=1)
    assert [row["name"] for row in results] == list(small.LONG)
    for row in results:
        assert row["tokens"] == [10, 21, 42, 85]
        assert min(row["forward_ms"]) > 0 and len(row["forward_ms"]) == 4
    assert results[0]["forward_ratio"] == [1] * 4


def test_branches_compares_both_parts_both_ways(small):
    results = small.branches(rounds=1)
    assert [(r["part"], r["batch"]) for r in results] == [
        ("stems", 2), ("Mamba-2 layers", 2), ("stems", 1), ("Mamba-2 layers", 1)
    ]  # fmt: skip
    for result in results:
        one_by_one, at_once = result["rows"]
        for kind, gain in result["gain"].items():
            assert gain == pytest.approx(one_by_one[f"{kind}_ms"] / at_once[f"{kind}_ms"])


def test_memory_of_a_training_step_includes_the_gradients(bench):
    """In a fresh process, as the benchmark does it."""
    (added,) = bench.models.added_mib("training", "CNNBaseline", "full", 1, [256])
    gradients = 4 * bench.models.parameters(bench.models.make("CNNBaseline", "full")) / 2**20
    assert gradients < added < 5 * gradients


def test_scan_measures_layers_that_agree(bench, monkeypatch):
    table = next(t for t in bench.scan.tables() if t.title == "One Mamba-1 layer")
    makers = {name: table.makers[name] for name in ("ecgbook Mamba", "loop over steps, autograd")}
    small = dict(vars(table), batch=1, length=20, makers=makers, equal=tuple(makers)[1:])
    monkeypatch.setattr(bench.scan, "tables", lambda: [bench.scan.Table(**small)])
    (result,) = bench.scan.speed(rounds=1)
    assert [row["name"] for row in result["rows"]] == list(makers)
    assert bench.scan.peak(table.title, "ecgbook Mamba") >= 0


def test_what_is_measured_replaces_only_its_own_part(bench, monkeypatch, tmp_path, capsys):
    result = tmp_path / "result.json"
    elsewhere = {"provenance": {"cpu": "another processor"}, "results": [1]}
    result.write_text(json.dumps({"one": elsewhere, "two": {"results": [2]}}))
    parts = {"one": lambda rounds: [rounds], "two": lambda rounds: pytest.fail("not asked for")}

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["models.py", *words])
        bench.method.main("there/models.py", "Purpose.", result, parts, lambda *w: w, rounds=3)
        return capsys.readouterr().out

    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "path", [*sys.path])
    try:
        run("--only", "one")
        assert json.loads(result.read_text())["one"] == elsewhere
        run("--only", "one", "--rounds", "2", "--write")
        run("--only", "one", "--rounds", "5", "--write")
        assert json.loads(run("--peak", "a", "b")) == ["a", "b"]
    finally:
        torch.set_num_threads(threads)
    stored = json.loads(result.read_text())
    assert stored["one"]["results"] == [5] and stored["two"] == {"results": [2]}
    assert stored["one"]["other_processors"] == [elsewhere]
    made = stored["one"]["provenance"]
    assert made["command"] == "python benchmarks/models.py --only one --rounds 5 --write"
    assert made["threads"] == 1 and made["rounds"] == 5 and made["commit"]


def test_the_presets_hold_only_the_sizes_of_the_stem():
    """`one_by_one_and_at_once` unpacks them in this order."""
    for sizes in PRESETS.values():
        assert list(sizes) == ["embed_dim", "stem_width", "stem_padding"]


def test_attacks_and_transforms_are_compared_with_the_first_of_each(bench, monkeypatch):
    robust = bench.robust
    monkeypatch.setattr(robust, "ATTACKED", (4, 160, 12))
    monkeypatch.setattr(robust, "TRANSFORMED", (4, 160, 12))
    for rows, first in (
        (robust.attacks(1), "training step"),
        (robust.transforms(1), "SciPy's FFT, in a loop"),
    ):
        assert rows[0]["name"] == first and rows[0]["times_the_first"] == 1
        for row in rows:
            count = 4 / row["records_per_s"]
            assert row["ms"] == pytest.approx(1000 * count) and row["ms"] > 0
