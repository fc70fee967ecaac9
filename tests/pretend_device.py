"""A device without float64, as Apple's GPUs are, played by the CPU.

Tensors on it are of the class `OnDevice`: to PyTorch they are on the device ``lazy`` and have no
memory, but each holds a tensor of the CPU with its numbers. While `PretendDevice` is entered, every
operation is seen: those on tensors of the device, or that make one there, are done with the numbers
inside. As on a real device, an operation between the device and the CPU fails, but for copies,
indices and single numbers, and so does one that makes float64 there.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("lazy")
_BETWEEN = "aten._to_copy", "aten.copy_", "aten.index"
_WIDE = torch.float64, torch.complex128


class OnDevice(torch.Tensor):
    """A tensor of the device; `inside` are its numbers."""

    @staticmethod
    def __new__(cls, inside):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inside.shape,
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=DEVICE,
        )

    def __init__(self, inside):
        self.inside = inside

    def __repr__(self):
        return f"OnDevice({self.inside!r})"

    def tolist(self):
        return self.inside.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of PretendDevice")


class PretendDevice(TorchDispatchMode):
    """Run what is on the device, and refuse what such a device refuses.

    Attributes
    ----------
    seen : set of str
        The operations that ran on the device.
    """

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __enter__(self):
        torch._C._set_only_lift_cpu_tensors(True)  # lists become tensors of the CPU, then are moved
        return super().__enter__()

    def __exit__(self, *raised):
        torch._C._set_only_lift_cpu_tensors(False)
        return super().__exit__(*raised)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [v for v in tree_flatten((args, kwargs))[0] if isinstance(v, torch.Tensor)]
        here = any(isinstance(v, OnDevice) for v in tensors)
        asked = kwargs.get("device")
        made_here = here if asked is None else torch.device(asked).type == DEVICE.type
        if not here and not made_here:
            return func(*args, **kwargs)
        name = str(func)
        self.seen.add(name)
        strangers = [v for v in tensors if not isinstance(v, OnDevice) and v.ndim]
        if strangers and not name.startswith(_BETWEEN):
            raise RuntimeError(f"{name}: a tensor of the CPU found among those of the device")
        if kwargs.get("dtype") in _WIDE and here:  # also on the way to the CPU
            raise TypeError(f"{name}: {kwargs['dtype']} found, which the device does not have")
        inner = {**kwargs, "device": torch.device("cpu")} if asked is not None else kwargs
        out = func(*tree_map(_inside, args), **tree_map(_inside, inner))
        if name == "aten.copy_.default" and not isinstance(args[0], OnDevice):
            return args[0]
        if not made_here:  # a copy on the CPU
            return out
        out = tree_map(_wrapped, out)
        for v in tree_flatten(out)[0]:
            if isinstance(v, torch.Tensor) and v.dtype in _WIDE:
                raise TypeError(f"{name}: {v.dtype} found, which the device does not have")
        if not any(isinstance(v, OnDevice) for v in tensors):
            return out
        return return_and_correct_aliasing(func, args, kwargs, out)


def _inside(value):
    return value.inside if isinstance(value, OnDevice) else value


def _wrapped(value):
    return OnDevice(value) if isinstance(value, torch.Tensor) else value
