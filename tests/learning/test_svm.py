import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.svm import LinearSVC
from torch import Tensor

from fedmeta.learning.svm import dual_solution


def problems(
    shots: int, ways: int, features: int, scale: float = 1.0, tasks: int = 2
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(shots * ways)
    x = torch.randn(tasks, shots * ways, features, generator=generator, dtype=torch.float64) * scale
    labels = torch.arange(shots * ways) % ways
    return x, F.one_hot(labels, ways).double().repeat(tasks, 1, 1)


def weights(x: Tensor, targets: Tensor, penalty: float) -> Tensor:
    return x.mT @ dual_solution(x @ x.mT, targets, penalty)


@pytest.mark.parametrize("penalty", [0.1, 1.0])
@pytest.mark.parametrize(
    ("shots", "ways", "features", "scale"),
    [(1, 5, 16, 1.0), (5, 5, 64, 2.0), (5, 5, 3, 1.0), (1, 20, 64, 0.3), (8, 4, 2, 0.1)],
)
def test_weights_are_those_of_liblinear(
    shots: int, ways: int, features: int, scale: float, penalty: float
) -> None:
    x, targets = problems(shots, ways, features, scale)
    found = weights(x, targets, penalty)
    for task in range(2):
        machine = LinearSVC(
            multi_class="crammer_singer", C=penalty, fit_intercept=False, tol=1e-7, max_iter=20_000
        )
        machine.fit(x[task].numpy(), targets[task].argmax(-1).numpy())
        np.testing.assert_allclose(found[task].T.numpy(), machine.coef_, atol=1e-5)


def test_dual_variables_are_feasible_and_optimal() -> None:
    """Crammer, Singer 2001: within an example, all classes with alpha below its bound have the largest
    slope Y - K alpha; at the optimum no exchange between two classes of an example improves."""
    x, targets = problems(3, 4, 2)
    gram = x @ x.mT
    alpha = dual_solution(gram, targets, 0.5)
    room = 0.5 * targets - alpha
    torch.testing.assert_close(alpha.sum(-1), torch.zeros(2, 12).double(), rtol=0, atol=1e-12)
    assert float(room.min()) > -1e-12
    slope = targets - gram @ alpha
    regret = slope - slope.amin(-1, keepdim=True)
    assert float((regret * room).max()) < 1e-8


@pytest.mark.parametrize(("shots", "ways", "features"), [(1, 5, 8), (4, 3, 6), (6, 3, 2)])
def test_gradient_is_the_derivative_of_the_weights(shots: int, ways: int, features: int) -> None:
    x, targets = problems(shots, ways, features)
    x.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda at: weights(at, targets, 0.2), (x,), eps=1e-5, atol=1e-7, rtol=1e-6, fast_mode=True
    )


def test_padding_and_absent_classes_change_nothing() -> None:
    x, targets = problems(2, 3, 4)
    expected = weights(x, targets, 0.1)
    padded, wider = F.pad(x, (0, 0, 0, 2)), F.pad(targets, (0, 2, 0, 2))
    found = weights(padded, wider, 0.1)
    torch.testing.assert_close(found[..., :3], expected, rtol=1e-10, atol=1e-12)
    assert not found[..., 3:].any()


def test_a_problem_does_not_depend_on_the_others() -> None:
    x, targets = problems(2, 3, 4, tasks=3)
    x = x * torch.tensor([0.01, 1.0, 30.0]).double().view(-1, 1, 1)
    together = weights(x, targets, 0.1)
    alone = torch.cat([weights(x[t : t + 1], targets[t : t + 1], 0.1) for t in range(3)])
    assert torch.equal(together, alone)


def test_a_kernel_that_is_not_finite_gives_no_error() -> None:
    x, targets = problems(1, 3, 4)
    x[0, 0, 0] = torch.nan
    found = weights(x, targets, 0.1)
    assert not found[0].isfinite().all()
    torch.testing.assert_close(found[1:], weights(x[1:], targets[1:], 0.1), rtol=0, atol=0)
