"""A simulated second device: computes on the CPU, and refuses to be mixed with it."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from typing_extensions import override

NAME = "meta"
"""What PyTorch calls it; the real device of that name holds no values."""

_BETWEEN = ("aten.copy_", "aten._to_copy", "aten.index", "aten._index_put")
"""Operators that may read from the CPU too: a copy, and an index by a tensor, as on CUDA."""


class There(Tensor):
    """A tensor on the second device; `held` has its values."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "There":
        """Wrap a tensor of the CPU."""
        made: There = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME),
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operator: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operator, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """In the block, ``.to("meta")`` moves a tensor to the second device, and ``.cpu()`` back.

    Attributes:
        computed: How many operators ran there.

    Raises:
        RuntimeError: Where one operator reads tensors of both, but for numbers without an axis.
    """

    computed = 0

    @override
    def __torch_dispatch__(self, operator: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.computed += any(isinstance(leaf, There) for leaf in tree_leaves((args, kwargs)))
        return _run(operator, args, kwargs or {})


def _run(operator: Any, args: Any, kwargs: Any) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, There)]
    here = [tensor for tensor in tensors if not isinstance(tensor, There) and tensor.dim()]
    if there and here and not str(operator).startswith(_BETWEEN):
        raise RuntimeError(f"{operator} reads tensors of two devices")
    asked = kwargs.get("device")
    held = tree_map(lambda leaf: leaf.held if isinstance(leaf, There) else leaf, kwargs)
    if asked is not None:
        held["device"] = torch.device("cpu")
    made = operator(*tree_map(lambda leaf: leaf.held if isinstance(leaf, There) else leaf, args), **held)
    if (torch.device(asked).type if asked is not None else NAME if there else "cpu") != NAME:
        return made
    wrapped = tree_map(lambda leaf: There(leaf) if isinstance(leaf, Tensor) else leaf, made)
    # An operator that works in place returns what it was given, which may have another shape now.
    return return_and_correct_aliasing(operator, args, kwargs, wrapped) if there else wrapped
