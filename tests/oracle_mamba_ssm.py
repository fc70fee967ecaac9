"""Compare the package with the pure-PyTorch references inside mamba-ssm; print errors as JSON.

`tests/test_parity.py` runs this in a process of its own, with mamba-ssm and einops on the path.
mamba-ssm cannot be imported where its CUDA extension was not built, and it needs Triton. So
three names are replaced before its files are read: the package itself, by an empty one that runs
no ``__init__.py``; Triton, by a stand-in that decorates kernels into nothing; and the CUDA
extension, by an empty module. The references themselves run as they were released.
"""

import json
import sys
import types
from importlib.util import find_spec
from unittest.mock import MagicMock, patch

import torch
import torch.nn.functional as F
from scan_cases import errors, selective_case, ssd_case

from ecgbook.models import Mamba, Mamba2
from ecgbook.scan import Backend, selective_scan, ssd

package = types.ModuleType("mamba_ssm")
package.__path__ = list(find_spec("mamba_ssm").submodule_search_locations)
sys.modules["mamba_ssm"] = package
triton = MagicMock(__version__="3.5.0")
triton.Config = lambda kwargs, num_warps=1, **_: types.SimpleNamespace(
    kwargs=kwargs, num_warps=num_warps
)
triton.autotune = lambda configs, **_: lambda kernel: types.SimpleNamespace(configs=configs)
sys.modules |= {"triton": triton, "triton.language": triton.language}
sys.modules["selective_scan_cuda"] = types.ModuleType("selective_scan_cuda")

from mamba_ssm.modules import mamba2, mamba_simple  # noqa: E402
from mamba_ssm.modules.ssd_minimal import ssd_minimal_discrete  # noqa: E402
from mamba_ssm.ops import selective_scan_interface  # noqa: E402
from mamba_ssm.ops.triton import layernorm_gated, ssd_combined  # noqa: E402


def worst(found, wanted) -> float:
    return errors({"y": found}, {"y": wanted})["y"]


def minimal() -> float:
    """Compare `ssd` in float64 with the paper's listing 1."""
    case = ssd_case(length=96, heads=4, groups=1, head_dim=8, d_state=16) | {"D": None}
    B, C = (case[name].expand(-1, -1, 4, -1) for name in ("B", "C"))
    X = case["x"] * case["dt"][..., None]
    wanted, _ = ssd_minimal_discrete(X, case["A"] * case["dt"], B, C, 32)
    return worst(ssd(**case), wanted)


def combined() -> float:
    """Compare `ssd` with the reference of the fused kernel, which works in float32."""
    case = ssd_case(length=96, heads=4, groups=2, head_dim=8, d_state=16)
    case = {name: v.float() for name, v in case.items()}
    wanted = ssd_combined.ssd_chunk_scan_combined_ref(**case, chunk_size=32)
    return worst(ssd(**case), wanted)


def selective() -> float:
    """Compare `selective_scan` with the reference of the CUDA kernel, which has channels first."""
    case = {name: v.float() for name, v in selective_case(length=100, channels=24).items()}
    swapped = {name: v.transpose(1, 2) if v.ndim > 2 else v for name, v in case.items()}
    swapped["delta"] = swapped.pop("dt")
    wanted = selective_scan_interface.selective_scan_ref(**swapped).transpose(1, 2)
    return worst(selective_scan(**case), wanted)


def layer() -> float:
    """Load mamba-ssm's `Mamba2` into ours, and compare with the reference of its fused forward."""
    theirs = mamba2.Mamba2(48, d_state=16, headdim=24, ngroups=2)
    ours = Mamba2(48, d_state=16, head_dim=24, n_groups=2)
    ours.load_state_dict(theirs.state_dict())

    def causal_conv1d(x, weight, bias, activation):  # its own package, which needs CUDA
        assert activation == "silu"
        width, length = weight.shape[1], x.shape[-1]
        y = F.conv1d(x, weight[:, None], bias, padding=width - 1, groups=len(weight))
        return F.silu(y[..., :length])

    def rmsnorm(x, weight, bias, z, eps, norm_before_gate):  # the kernel infers the group size
        return layernorm_gated.rms_norm_ref(x, weight, bias, z, eps, 48, norm_before_gate)

    ssd_combined.causal_conv1d_fn = causal_conv1d
    ssd_combined.rmsnorm_fn = rmsnorm
    selective_scan_interface.selective_scan_fn = selective_scan_interface.selective_scan_ref
    x = torch.randn(2, 100, 48, generator=torch.Generator().manual_seed(0))
    wanted = ssd_combined.mamba_split_conv1d_scan_ref(
        theirs.in_proj(x),
        theirs.conv1d.weight[:, 0],
        theirs.conv1d.bias,
        theirs.dt_bias,
        -theirs.A_log.exp(),
        theirs.D,
        chunk_size=32,
        rmsnorm_weight=theirs.norm.weight,
        rmsnorm_eps=theirs.norm.eps,
        outproj_weight=theirs.out_proj.weight,
        headdim=24,
        ngroups=2,
        norm_before_gate=theirs.norm_before_gate,
    )
    return worst(ours(x).detach(), wanted.detach())


def routed() -> float:
    """Send `ssd` and `selective_scan` to the kernels, with their references in their place."""
    ssd_combined.mamba_chunk_scan_combined = chunk_scan
    selective_scan_interface.selective_scan_fn = selective_scan_interface.selective_scan_ref
    apart = []
    for scan, case in ((ssd, ssd_case(length=256)), (selective_scan, selective_case(length=50))):
        case = {name: v.float() for name, v in case.items()}
        for reverse in (False, True):
            wanted = scan(**case, reverse=reverse)
            with patch("ecgbook.scan.backend", return_value=Backend("mamba-ssm", "as a test")):
                apart.append(worst(scan(**case, reverse=reverse), wanted))
    return max(apart)


def chunk_scan(x, dt, A, B, C, chunk_size, D, initial_states):
    assert initial_states is None  # the reference takes none
    return ssd_combined.ssd_chunk_scan_combined_ref(x, dt, A, B, C, chunk_size, D)


def names() -> float:
    """Load the parameters of mamba-ssm's layers at their defaults into ours, and back."""
    pairs = [(mamba_simple.Mamba, Mamba), (mamba2.Mamba2, Mamba2)]
    for theirs, ours in pairs:
        theirs, ours = theirs(64), ours(64)
        ours.load_state_dict(theirs.state_dict())
        theirs.load_state_dict(ours.state_dict())
    return 0.0


if __name__ == "__main__":
    torch.manual_seed(0)
    checks = minimal, combined, selective, routed, layer, names
    print(json.dumps({check.__name__: check() for check in checks}))
