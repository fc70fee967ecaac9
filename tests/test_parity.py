"""Scans, layers, attacks and relevance against other libraries, each in a process of its own.

These libraries stay out of the environment: `make oracles` puts them into ``.oracles``, and what is
not there is skipped.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scan_cases import errors, gradients, pull_like, ssd_case

from ecgbook.scan import ssd

TESTS = Path(__file__).resolve().parent
ORACLES = TESTS.parent / ".oracles"


def measured(library: str, *others: str) -> dict:
    """Return what the script of a library prints, run with that and what it needs on the path."""
    folders = [ORACLES / name for name in (library, *others)]
    for folder in folders:
        if not folder.is_dir():
            pytest.skip(f"{folder.name} is not in {ORACLES.name}: `make oracles` installs it")
    paths = os.pathsep.join(map(str, (TESTS.parent, *folders)))
    run = subprocess.run(
        [sys.executable, str(TESTS / f"oracle_{library}.py")],
        env=os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def mamba_ssm() -> dict:
    return measured("mamba_ssm")


@pytest.fixture(scope="module")
def mamba3() -> dict:
    return measured("mamba3", "mamba_ssm")


@pytest.fixture(scope="module")
def transformers() -> dict:
    return measured("transformers")


@pytest.fixture(scope="module")
def hydra() -> dict:
    return measured("hydra", "mamba_ssm")


@pytest.fixture(scope="module")
def s4() -> dict:
    return measured("s4", "mamba_ssm")


@pytest.fixture(scope="module")
def art() -> dict:
    return measured("art")


@pytest.fixture(scope="module")
def zennit() -> dict:
    return measured("zennit")


def test_ssd_is_the_listing_of_the_mamba_2_paper(mamba_ssm):
    assert mamba_ssm["minimal"] < 1e-14  # float64


def test_ssd_is_the_reference_of_the_triton_kernel(mamba_ssm):
    assert mamba_ssm["combined"] < 5e-6  # float32, cumulative sums over a chunk


def test_selective_scan_is_the_reference_of_the_cuda_kernel(mamba_ssm):
    assert mamba_ssm["selective"] < 1e-6


def test_arguments_reach_the_kernels_in_their_order_and_time_in_both_directions(mamba_ssm):
    assert mamba_ssm["routed"] < 5e-6


def test_the_mamba_2_layer_is_that_of_mamba_ssm_on_its_weights(mamba_ssm):
    assert mamba_ssm["layer"] < 1e-6


def test_parameters_of_mamba_ssm_load_unchanged_and_go_back(mamba_ssm):
    assert "names" in mamba_ssm  # the script fails where a name or a shape differs


@pytest.mark.parametrize("groups", ["1", "2"])
@pytest.mark.parametrize("reference", ["step", "forward"])
def test_rotation_and_trapezoidal_scan_are_the_references_of_mamba_3(mamba3, reference, groups):
    found = mamba3["scan"][f"{reference}, {groups} groups"]
    assert max(found["float32"].values()) < 1e-5, found["float32"]
    if reference == "step":  # the other one turns by angles in float32
        assert max(found["float64"].values()) < 1e-13, found["float64"]


@pytest.mark.parametrize("groups", ["1", "2"])
def test_the_mamba_3_layer_is_that_of_mamba_ssm_on_its_weights(mamba3, groups):
    found = mamba3["layer"][groups]
    assert max(found.values()) < 1e-5, found


@pytest.mark.parametrize("layer", ["mamba", "mamba2", "mamba2, groups"])
def test_layers_and_gradients_are_those_of_transformers_on_its_weights(transformers, layer):
    assert transformers[layer]["output"] < 1e-6
    assert transformers[layer]["gradients"] < 5e-6


@pytest.mark.parametrize("groups", ["1", "2"])
def test_the_hydra_layer_and_its_gradients_are_the_published_ones(hydra, groups):
    assert hydra[groups]["output"] < 1e-6
    assert hydra[groups]["gradients"] < 1e-5


def test_the_hydra_layer_starts_as_published(hydra):
    assert hydra["start"]["shapes"]
    assert {"A_log", "D", "norm.weight"} <= set(hydra["start"]["same"])


@pytest.mark.parametrize(("dtype", "allowed"), [("float32", 1e-5), ("float64", 1e-13)])
def test_the_s4d_layer_and_its_gradients_are_the_published_ones(s4, dtype, allowed):
    assert s4[dtype]["output"] < allowed and s4[dtype]["gradients"] < allowed


def test_s4d_in_both_directions_is_that_of_s4(s4):
    assert s4["both"] < 1e-13


def test_the_s4d_layer_starts_as_published(s4):
    assert s4["start"]["same"] == ["kernel.log_A_real", "kernel.A_imag"]
    assert s4["start"]["inverse"] < 1e-6
    for name, (ours, theirs) in s4["start"]["spread"].items():
        assert ours == pytest.approx(theirs, rel=0.1), name


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_attacks_are_those_of_the_adversarial_robustness_toolbox(art, attack):
    for case in art["labels"]:
        assert case[attack] < 1e-5  # mV
        assert case["moved"] == pytest.approx(art["epsilon_mv"]) and case["rise"] > 0


@pytest.mark.parametrize("rule", ["LRP-0", "gamma 0.25", "gamma 2"])
def test_relevance_in_a_convolutional_network_is_that_of_zennit(zennit, rule):
    assert zennit["errors"][rule] < 1e-11  # float64, a batch normalization folded in
    assert zennit["another gamma"] > 0.1


needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device: Triton's kernels run on none other"
)
# Triton multiplies float32 in TF32, with 10 bits after the point.
TF32 = 5e-3
SIZES = dict(length=1000, heads=4, groups=1, head_dim=64, d_state=64)


@needs_gpu
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_ssd_on_a_gpu_is_ssd_on_a_cpu(reverse):
    case = ssd_case(**SIZES)
    wanted = gradients(ssd, case, reverse=reverse)
    on_gpu = {name: v.float().cuda() for name, v in case.items()}
    found = gradients(ssd, on_gpu, reverse=reverse)
    found = {name: v.cpu() for name, v in found.items()}
    assert max(errors(found, wanted).values()) < TF32, errors(found, wanted)


@needs_gpu
def test_the_triton_kernel_is_ssd_on_a_cpu():
    kernels = pytest.importorskip(
        "mamba_ssm.ops.triton.ssd_combined", reason="`pip install ecgbook[cuda]` installs it"
    )
    case = ssd_case(**SIZES)
    wanted = gradients(ssd, case)
    leaves = {name: v.float().cuda().requires_grad_() for name, v in case.items()}
    y = kernels.mamba_chunk_scan_combined(**leaves, chunk_size=64)
    y.backward(pull_like(wanted["y"]).to(y))
    found = {"y": y.detach().cpu()} | {name: v.grad.cpu() for name, v in leaves.items()}
    assert max(errors(found, wanted).values()) < TF32, errors(found, wanted)
