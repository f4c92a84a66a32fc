"""Calls the kernels: gradients, Hessian-vector products and unrolled inner loops of a batch of tasks."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import Structure, byref, c_double, c_int, c_long, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedmeta.errors import ConfigError
from fedmeta.learning.native import build
from fedmeta.tasks.batch import MASK, Examples
from fedmeta.tasks.objective import Gradient, Objective, Tensors
from fedmeta.tasks.objectives.classification import Classification
from fedmeta.tasks.objectives.regression import Regression

DTYPES = {torch.float32: "float32", torch.float64: "float64"}
CROSS_ENTROPY, SQUARED_ERROR = 0, 1
LOSSES: dict[type[Objective], int] = {Classification: CROSS_ENTROPY, Regression: SQUARED_ERROR}
DIFFERENTIATED = ("inputs", "forward", "loss", "gradient", "hvp")
"""Methods of an objective that its kernels stand for."""
PROBLEMS = {
    1: "a label is negative or not below the number of outputs",
    2: "a token is negative or not below the size of the vocabulary",
    3: "not enough memory for the kernels' work space",
}


@dataclass(frozen=True)
class KernelPlan:
    """A network as the C code sees it.

    Attributes:
        model: Stem of its C file.
        sizes: What ``plan_net`` there reads.
        shapes: Shapes of the parameters by name, in the order of its layout, without a task axis.
        inputs: Shape of an example's inputs, without the length of a text.
        outputs: Size of the last axis of its predictions.
        images: Whether inputs are images, which it reads with the channels last.
        tokens: Whether inputs are texts of tokens, whose length ends its sizes.
    """

    model: str
    sizes: tuple[int, ...]
    shapes: Mapping[str, tuple[int, ...]]
    inputs: tuple[int, ...]
    outputs: int
    images: bool = False
    tokens: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of the layout."""
        return tuple(self.shapes)


class _Parameters(Structure):
    _fields_ = [("at", c_void_p), ("stride", c_long)]


class _Batch(Structure):
    _fields_ = [("examples", c_int), ("stats", c_int), ("x", c_void_p), ("y", c_void_p)]


class _Unroll(Structure):
    _fields_ = [
        ("steps", c_int),
        ("second_order", c_int),
        ("loss", c_int),
        ("rate", c_double),
        ("parameters", _Parameters),
        ("rates", _Parameters),
        ("support", _Batch),
        ("query", _Batch),
        ("gradient", c_void_p),
        ("rates_gradient", c_void_p),
        ("losses", c_void_p),
        ("prediction_before", c_void_p),
        ("prediction", c_void_p),
    ]


class _Hvp(Structure):
    _fields_ = [
        ("loss", c_int),
        ("parameters", _Parameters),
        ("vector", _Parameters),
        ("batch", _Batch),
        ("product", c_void_p),
    ]


class _Network(Structure):
    _fields_ = [
        ("parameters", _Parameters),
        ("batch", _Batch),
        ("prediction", c_void_p),
        ("kept", c_void_p),
        ("gradient", c_void_p),
    ]


class InnerLoop(NamedTuple):
    """An inner loop of gradient descent.

    Attributes:
        rates: The learning rate: a number, or tensors ``[T, ...]`` by parameter.
        steps: Number of steps.
        second_order: Whether to differentiate through the steps' gradients.
        inductive: Whether batch norm predicts the query set by the support set's statistics.
    """

    rates: float | Tensors
    steps: int
    second_order: bool = False
    inductive: bool = False


class Unrolled(NamedTuple):
    """A meta-gradient with what was seen on the way; tensors have a leading task axis.

    Attributes:
        updates: The gradient of the query loss after the last step, by the initial parameters.
        rates: The same by the learning rates, if they are tensors.
        loss_before: Loss on the support set before the first step.
        prediction_before: Predictions for the support set, before the first step.
        loss: Loss on the query set after the last step.
        prediction: Predictions for the query set, after the last step.
    """

    updates: Tensors
    rates: Tensors
    loss_before: Tensor
    prediction_before: Tensor
    loss: Tensor
    prediction: Tensor


class Kernel:
    """The kernels of one network.

    Results are equal to autograd's up to rounding, and have the same bits for any number of threads, any
    chunk of tasks and any width of the processor's vectors.

    Args:
        plan: The network.
    """

    def __init__(self, plan: KernelPlan) -> None:
        self.plan = plan

    def takes(self, params: Mapping[str, Tensor], x: Tensor) -> bool:
        """Return whether there is a kernel for these parameters and inputs.

        The C code reads memory by the plan's shapes, so that anything else must not reach it: a new
        head with other outputs, for example, or tensors that only stand for others.
        """
        plan, (tasks, rows) = self.plan, x.shape[:2]
        if type(x) is not Tensor or x.device.type != "cpu" or not (tasks and rows):
            return False
        shape = x.shape[2:-1] if plan.tokens else x.shape[2:]
        if tuple(shape) != plan.inputs or (plan.tokens and not x.shape[-1]):
            return False
        dtype = next(iter(params.values())).dtype if params else None
        return (
            dtype in DTYPES
            and x.dtype == (torch.int64 if plan.tokens else dtype)
            and all(
                key in params and params[key].dtype == dtype and params[key].shape == (tasks, *own)
                for key, own in plan.shapes.items()
            )
            and _library(dtype) is not None
        )

    def takes_loss(self, objective: Objective, params: Mapping[str, Tensor], examples: Examples) -> bool:
        """Return whether there is a kernel for the loss of these examples too."""
        loss = loss_of(type(objective))
        if loss is None or MASK in examples or not self.takes(params, examples["x"]):
            return False
        predicted = self._predicted(examples["x"])
        return tuple(examples["y"].shape) == (predicted[:-1] if loss == CROSS_ENTROPY else predicted)

    def forward(self, params: Mapping[str, Tensor], x: Tensor, stat_rows: int = 0) -> Tensor:
        """Predict for the examples after the first `stat_rows`, which only give batch norm's statistics.

        The result has a gradient, once, if grad mode is on and the parameters require one.
        """
        values = [params[key] for key in self.plan.keys]
        predicted: Tensor = _Forward.apply(self, x, stat_rows, *values)  # type: ignore[no-untyped-call]
        return predicted

    def gradient(
        self, objective: Objective, params: Mapping[str, Tensor], examples: Examples
    ) -> Gradient:
        """Return the gradient of each task's loss; see `Objective.gradient`."""
        made = self.unroll(objective, params, None, examples, InnerLoop(0.0, steps=0))
        return Gradient(made.updates, made.loss, made.prediction)

    def hvp(
        self, objective: Objective, params: Mapping[str, Tensor], examples: Examples, vector: Tensors
    ) -> Tensors:
        """Return each task's Hessian-vector product; see `Objective.hvp`."""
        flat, along = self._flat(params), self._flat(vector)
        loss = loss_of(type(objective))
        assert loss is not None
        batch, kept = self._batch(examples, loss, flat.dtype)
        product = flat.new_empty(kept[0].shape[0], flat.shape[1])
        work = _Hvp(loss, _at(flat), _at(along), batch, product.data_ptr())
        self._run("hvp", flat.dtype, kept[0], work)
        return self._by_key(product, params)

    def unroll(
        self,
        objective: Objective,
        params: Mapping[str, Tensor],
        support: Examples | None,
        query: Examples,
        loop: InnerLoop,
    ) -> Unrolled:
        """Take inner steps on the support set; differentiate the query loss by where they began.

        Args:
            objective: A loss of `takes_loss`.
            params: Initial parameters, ``[T, ...]``.
            support: Examples of the inner loop; None without steps.
            query: Examples of the loss that is differentiated.
            loop: The inner loop.
        """
        loss, flat = loss_of(type(objective)), self._flat(params)
        assert loss is not None
        tasks, dtype = query["x"].shape[0], flat.dtype
        rates = None if isinstance(loop.rates, float) else self._flat(loop.rates)
        stats = support if loop.inductive else None
        asked, read = self._batch(query, loss, dtype, stats)
        before, read_before = self._batch(support, loss, dtype) if support else (_Batch(), ())
        made = flat.new_empty(tasks, flat.shape[1])
        by_rates = None if rates is None else torch.empty_like(made)
        losses = flat.new_zeros(tasks, 2)
        seen_before = flat.new_empty(self._predicted(support["x"]) if support else 0)
        seen = flat.new_empty(self._predicted(query["x"]))
        work = _Unroll(
            steps=loop.steps,
            second_order=loop.second_order and loop.steps > 0,
            loss=loss,
            rate=loop.rates if isinstance(loop.rates, float) else 0.0,
            parameters=_at(flat),
            rates=_Parameters() if rates is None else _at(rates),
            support=before,
            query=asked,
            gradient=made.data_ptr(),
            rates_gradient=None if by_rates is None else by_rates.data_ptr(),
            losses=losses.data_ptr(),
            prediction_before=seen_before.data_ptr(),
            prediction=seen.data_ptr(),
        )
        self._run("unroll", dtype, query["x"], work)
        del read, read_before  # C read them until here
        found = {} if by_rates is None else self._by_key(by_rates, params)
        return Unrolled(self._by_key(made, params), found, losses[:, 0], seen_before, losses[:, 1], seen)

    def _batch(
        self, examples: Examples, loss: int, dtype: torch.dtype, stats: Examples | None = None
    ) -> tuple[_Batch, tuple[Tensor, Tensor]]:
        """Describe examples, after those that only give statistics, and the tensors that C reads."""
        x = examples["x"] if stats is None else torch.cat([stats["x"], examples["x"]], 1)
        x = self._inputs(x)
        target = torch.int64 if loss == CROSS_ENTROPY else dtype
        y = examples["y"].to(target).contiguous()
        rows = 0 if stats is None else stats["x"].shape[1]
        return _Batch(x.shape[1], rows, x.data_ptr(), y.data_ptr()), (x, y)

    def _inputs(self, x: Tensor) -> Tensor:
        """Return inputs as C reads them."""
        if self.plan.images and x.dim() == 5:
            x = x.permute(0, 1, 3, 4, 2)
        return x.contiguous()

    def _flat(self, params: Mapping[str, Tensor]) -> Tensor:
        """Return each task's parameters in a row, ``[T, n]``; ``[1, n]`` where all tasks share them."""
        values = [params[key].detach() for key in self.plan.keys]
        if all(value.stride(0) == 0 or value.shape[0] == 1 for value in values):
            return torch.cat([value[0].reshape(-1) for value in values]).unsqueeze(0)
        return torch.cat([value.flatten(1) for value in values], 1)

    def _by_key(self, flat: Tensor, params: Mapping[str, Tensor]) -> Tensors:
        """Cut ``[T, n]`` into the parameters, in their order."""
        parts = _cut(flat, [params[key].shape for key in self.plan.keys])
        found = dict(zip(self.plan.keys, parts, strict=True))
        return {key: found[key] for key in params}

    def _predicted(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape of predictions for inputs ``[T, B, *input]``."""
        return (*(x.shape if self.plan.tokens else x.shape[:2]), self.plan.outputs)

    def _sizes(self, x: Tensor) -> Any:
        sizes = (*self.plan.sizes, x.shape[2]) if self.plan.tokens else self.plan.sizes
        return (c_int * len(sizes))(*sizes)

    def _run(self, name: str, dtype: torch.dtype, x: Tensor, work: Structure) -> None:
        """Call a function of the library for the tasks of `x`, shared out among PyTorch's threads."""
        library = _library(dtype)
        assert library is not None
        function: Callable[..., int] = getattr(library, f"{self.plan.model}_{name}")
        sizes, tasks = self._sizes(x), x.shape[0]
        threads = min(torch.get_num_threads(), tasks)
        if threads == 1:
            found = [function(sizes, byref(work), c_long(0), c_long(tasks))]
        else:
            cuts = [tasks * i // threads for i in range(threads + 1)]
            calls = [
                _pool(threads).submit(function, sizes, byref(work), c_long(a), c_long(b))
                for a, b in pairwise(cuts)
            ]
            found = [call.result() for call in calls]
        if status := max(found):
            raise (MemoryError if status == 3 else IndexError)(f"{self.plan.model}: {PROBLEMS[status]}")


class _Forward(torch.autograd.Function):
    """A forward pass that keeps what its gradient needs."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, x: Tensor, stats: int, *values: Tensor) -> Tensor:
        params = dict(zip(kernel.plan.keys, values, strict=True))
        flat, x = kernel._flat(params), kernel._inputs(x)
        tasks = x.shape[0]
        batch = _Batch(x.shape[1], stats, x.data_ptr(), None)
        predicted = flat.new_empty(kernel._predicted(x[:, stats:]))
        keeps = any(ctx.needs_input_grad)
        kept = flat.new_empty(0, dtype=torch.uint8)
        if keeps:
            size = _kept_bytes(kernel, flat.dtype, x, batch)
            kept = flat.new_empty(tasks * size, dtype=torch.uint8)
        work = _Network(_at(flat), batch, predicted.data_ptr(), kept.data_ptr() if keeps else None, None)
        kernel._run("forward", flat.dtype, x, work)
        ctx.kernel, ctx.stats = kernel, stats
        ctx.shapes = [value.shape for value in values]
        ctx.save_for_backward(flat, x, kept)
        return predicted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        flat, x, kept = ctx.saved_tensors
        kernel: Kernel = ctx.kernel
        delta = delta.contiguous()
        made = flat.new_empty(x.shape[0], flat.shape[1])
        batch = _Batch(x.shape[1], ctx.stats, x.data_ptr(), None)
        work = _Network(_at(flat), batch, delta.data_ptr(), kept.data_ptr(), made.data_ptr())
        kernel._run("backward", flat.dtype, x, work)
        return None, None, None, *_cut(made, ctx.shapes)


def _cut(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Cut ``[T, n]`` into tensors of the shapes, whose first size stands for T."""
    parts = torch.split(flat, [shape[1:].numel() for shape in shapes], 1)
    return [part.view(-1, *shape[1:]) for part, shape in zip(parts, shapes, strict=True)]


@cache
def loss_of(objective: type[Objective]) -> int | None:
    """Return the loss of an objective as the C code numbers it; None if there are no kernels for it.

    An objective that inherits everything that is differentiated, such as one with other measures, has
    the kernels of its base class.
    """
    for kind, loss in LOSSES.items():
        if issubclass(objective, kind):
            same = [getattr(objective, name) is getattr(kind, name) for name in DIFFERENTIATED]
            return loss if all(same) else None
    return None


def _kept_bytes(kernel: Kernel, dtype: torch.dtype, x: Tensor, batch: _Batch) -> int:
    function = getattr(_library(dtype), f"{kernel.plan.model}_kept_bytes")
    function.restype = c_size_t
    return int(function(kernel._sizes(x), byref(batch)))


def _at(flat: Tensor) -> _Parameters:
    """Describe parameters ``[T, n]``, or ``[1, n]`` of all tasks."""
    return _Parameters(flat.data_ptr(), flat.shape[1] if flat.shape[0] > 1 else 0)


@cache
def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """Load the library of a dtype; None if it cannot be had here."""
    kind = build.processor()
    path = build.build_if_missing(DTYPES[dtype], kind) if kind else None
    try:
        return ctypes.CDLL(str(path)) if path else None
    except OSError:
        # Compiled elsewhere, for another C library for example.
        return None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernel")


def available(dtype: torch.dtype = torch.float32) -> bool:
    """Return whether kernels of a dtype can be used here, compiling them first if needed."""
    return _library(dtype) is not None


def build_kernel(plan: KernelPlan | None) -> Kernel | None:
    """Return the kernels of a network; None if there are none for it.

    Raises:
        ConfigError: If kernels cannot be used on this machine.
    """
    if not available():
        raise ConfigError(f"kernels: {build.why_not()}; choose 'eager'")
    return None if plan is None else Kernel(plan)


def choose_kernels(asked: str, able: bool, dtype: torch.dtype = torch.float32) -> str:
    """Return ``native`` or ``eager``: what computes the gradients of a run.

    Args:
        asked: ``auto``, ``native`` or ``eager``.
        able: Whether there is a kernel for what the run computes.
        dtype: The run's dtype.

    Raises:
        ConfigError: If native kernels are asked for and cannot be used.
    """
    if not able or asked == "eager":
        return "eager"
    if available(dtype):
        return "native"
    if asked == "native":
        raise ConfigError(f"kernels: {build.why_not()}; choose 'auto' or 'eager'")
    return "eager"
