"""Multi-class support vector machines on the task axis, with a gradient for the kernel matrix."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

ITERATIONS = 25
"""Most interior-point steps; about ten are enough."""
SHIFT = 1e-8
"""Added to the kernel's diagonal in the factors of a system, relative to it: more examples than features
make a kernel singular. The residuals of the next step, or refinement, correct for it."""
REFINEMENTS = 2
CONVERGED = 1e-16
"""Mean complementarity ``beta z`` at which a problem has converged, relative to C."""


def dual_solution(gram: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """Return the dual variables ``alpha [T, S, ways]`` of Crammer and Singer's SVM, in float64.

    Crammer, Singer 2001, "On the Algorithmic Implementation of Multiclass Kernel-based Vector
    Machines"; in the form of Lee et al. 2019, equations 5 and 6: minimise
    ``1/2 sum_k a_k' K a_k - sum_n alpha[n, y_n]`` with ``alpha[n, k] <= C [k = y_n]`` and
    ``sum_k alpha[n, k] = 0``. Class k has the weights ``w_k = sum_n alpha[n, k] x_n``.

    With ``beta = C Y - alpha`` the constraints are ``beta >= 0`` and ``sum_k beta[n, k] = C``: a
    feasible start is known, and the Newton system splits into one of S rows per class.

    Args:
        gram: ``K = X X'``, ``[T, S, S]``, in float64.
        targets: One-hot labels Y ``[T, S, ways]``. A row of zeros is padding, a column of zeros a class
            that the task lacks; both have ``alpha = 0``.
        penalty: C.
    """
    alpha: Tensor = crammer_singer(gram, targets, penalty)[0]
    return alpha


# Opaque operations for the compiler: iterations end when all problems have converged.
@torch.library.custom_op("fedmeta::crammer_singer", mutates_args=())
def crammer_singer(gram: Tensor, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Return alpha and ``z / beta`` at the solution, ``[T, S, ways]`` each."""
    free = _open(targets)
    at = _Problem(gram, targets, penalty).solve()
    return penalty * targets - at.beta, at.z / at.beta.where(free, 1.0)


@crammer_singer.register_fake
def _(gram: Tensor, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return torch.empty_like(targets), torch.empty_like(targets)


@torch.library.custom_op("fedmeta::crammer_singer_backward", mutates_args=())
def crammer_singer_backward(
    gram: Tensor, targets: Tensor, alpha: Tensor, diagonal: Tensor, grad: Tensor
) -> Tensor:
    """Return the gradient for the kernel matrix, given the one for alpha.

    Implicit function theorem: ``K d_beta + d_nu - d_z = dK alpha``, ``sum_k d_beta = 0`` and
    ``z d_beta + beta d_z = 0``. This system is symmetric, so one more solution of it with the incoming
    gradient as the right side, u, gives ``dL/dK = u alpha'``.
    """
    return _System(gram, _open(targets), diagonal).refined(-grad) @ alpha.mT


@crammer_singer_backward.register_fake
def _(gram: Tensor, targets: Tensor, alpha: Tensor, diagonal: Tensor, grad: Tensor) -> Tensor:  # noqa: ARG001
    return torch.empty_like(gram)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:2], *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
    return crammer_singer_backward(*ctx.saved_tensors, grad), None, None


crammer_singer.register_autograd(_backward, setup_context=_keep)


def _open(targets: Tensor) -> Tensor:
    """Return which variables are not fixed at 0: real examples and classes that the task has."""
    return (targets.sum(2, keepdim=True) > 0) & (targets.sum(1, keepdim=True) > 0)


class _Point(NamedTuple):
    """Primal variables, multipliers of the sums and of the bounds."""

    beta: Tensor
    nu: Tensor
    z: Tensor

    def moved(self, step: "_Point", length: Tensor) -> "_Point":
        each = length.view(-1, 1, 1)
        pairs = zip(self, step, strict=True)
        return _Point(*(torch.where(each > 0, value + each * change, value) for value, change in pairs))


class _System:
    """The Newton system ``(K + D) b + nu = r``, ``sum_k b = s`` in the variables that are `free`.

    D is diagonal, so that the matrix has a block ``K + D_k`` of S rows per class.

    Args:
        gram: ``[T, S, S]``.
        free: ``[T, S, ways]``, False for variables that are fixed at 0.
        diagonal: D ``[T, S, ways]``.
    """

    def __init__(self, gram: Tensor, free: Tensor, diagonal: Tensor) -> None:
        self._free = free.to(gram.dtype)
        self._gram, self._diagonal = gram, diagonal.where(free, 1.0)
        shift = SHIFT * gram.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1)
        open_ = self._free.transpose(1, 2)
        blocks = gram.unsqueeze(1) * open_.unsqueeze(-1) * open_.unsqueeze(-2)
        blocks = blocks + torch.diag_embed((self._diagonal + shift).transpose(1, 2))
        # `_ex` does not raise where the kernel is not finite: such an update is refused later.
        self._factors = torch.linalg.cholesky_ex(blocks).L
        halves = torch.linalg.solve_triangular(
            self._factors, torch.diag_embed(open_), upper=False
        ).flatten(1, 2)
        unused = (~free.any(-1)).to(gram.dtype)
        self._sums = torch.linalg.cholesky_ex(halves.mT @ halves + torch.diag_embed(unused)).L

    def solve(self, right: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """Return b ``[T, S, ways]`` and nu ``[T, S, 1]`` for r ``[T, S, ways]`` and s ``[T, S, 1]``.

        They are as exact as the shift of the kernel's diagonal permits, see `refined`.
        """
        excess = self._blocks(right * self._free).sum(-1, keepdim=True) - total
        nu = torch.cholesky_solve(excess, self._sums)
        return self._blocks((right - nu) * self._free), nu

    def refined(self, right: Tensor) -> Tensor:
        """Return b for r and sums of 0 to full precision, by iterative refinement."""
        zero = torch.zeros_like(right[..., :1])
        b, nu = self.solve(right, zero)
        for _ in range(REFINEMENTS):
            rest = right - self._gram @ b - self._diagonal * b - nu
            more_b, more_nu = self.solve(rest, zero - b.sum(-1, keepdim=True))
            b, nu = b + more_b, nu + more_nu
        return b

    def _blocks(self, right: Tensor) -> Tensor:
        columns = right.transpose(1, 2).unsqueeze(-1)
        return torch.cholesky_solve(columns, self._factors).squeeze(-1).transpose(1, 2) * self._free


class _Problem:
    """The dual of the multi-class SVM in beta, see `dual_solution`."""

    def __init__(self, gram: Tensor, targets: Tensor, penalty: float) -> None:
        self._gram, self._targets, self._penalty = gram, targets, penalty
        self._free = _open(targets)
        self._weights = self._free.to(gram.dtype)

    def solve(self) -> _Point:
        """Take Mehrotra's predictor-corrector steps (Nocedal, Wright 2006, Algorithm 16.4)."""
        at = self._start()
        for _ in range(ITERATIONS):
            mean = self._mean(at)
            unsolved = mean > CONVERGED * self._penalty
            if not bool(unsolved.any()):
                break
            change = self._step(at, mean)
            # A problem that has converged stays as it is, whatever the others need.
            at = at.moved(change, (0.995 * _longest(at, change)).where(unsolved, 0.0))
        return at

    def _start(self) -> _Point:
        """Return a point that satisfies all but complementarity."""
        ways = self._weights.sum(-1, keepdim=True)
        beta = self._penalty * self._weights / ways.clamp(min=1)
        slope = self._slope(beta)
        nu = 1 - slope.where(self._free, torch.inf).amin(-1, keepdim=True)
        nu = nu.where(ways > 0, 0.0)
        return _Point(beta, nu, (slope + nu).where(self._free, 1.0))

    def _slope(self, beta: Tensor) -> Tensor:
        """Return the derivative of the objective with respect to beta, ``Y - K alpha``."""
        return self._targets - self._gram @ (self._penalty * self._targets - beta)

    def _mean(self, at: _Point) -> Tensor:
        """Return the mean complementarity ``beta z`` of each task, ``[T]``."""
        return (at.beta * at.z * self._weights).flatten(1).sum(1) / self._weights.flatten(1).sum(1)

    def _step(self, at: _Point, mean: Tensor) -> _Point:
        inside = at.beta.where(self._free, 1.0)
        system = _System(self._gram, self._free, at.z / inside)
        gap = self._slope(at.beta) + at.nu - at.z
        ways = self._weights.sum(-1, keepdim=True)
        missing = (self._penalty - at.beta.sum(-1, keepdim=True)).where(ways > 0, 0.0)

        def towards(complement: Tensor) -> _Point:
            by_beta, by_nu = system.solve(complement / inside - gap, missing)
            return _Point(by_beta, by_nu, (complement - at.z * by_beta) / inside * self._weights)

        products = at.beta * at.z * self._weights
        predicted = towards(-products)
        ahead = self._mean(at.moved(predicted, _longest(at, predicted)))
        centre = ((ahead / mean) ** 3 * mean).view(-1, 1, 1) * self._weights
        return towards(centre - products - predicted.beta * predicted.z)


def _longest(at: _Point, step: _Point) -> Tensor:
    """Return the longest step of each task, at most 1, that keeps beta and z at 0 or above."""
    room = [
        torch.where(change < 0, -value / change, torch.inf).flatten(1).amin(1)
        for value, change in ((at.beta, step.beta), (at.z, step.z))
    ]
    return torch.minimum(*room).clamp(max=1.0)
