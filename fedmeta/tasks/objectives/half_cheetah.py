"""MuJoCo's half-cheetah: a robot runs in a given direction or at a given speed."""

from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from fedmeta.errors import DataError
from fedmeta.tasks.batch import Examples
from fedmeta.tasks.policy_gradient import PolicyGradient, Step, X

if TYPE_CHECKING:
    from mujoco import MjModel

ROBOT, DIRECTION, SPEED = "robot", "direction", "speed"
"""Keys of `Examples`: mass (kg) and sliding friction of each episode's robot, ``[T, B, 2]``; and
its goal ``[T, B]``: 1 forwards, -1 backwards; or a speed (m/s)."""
JOINTS = 9
"""Positions of a robot, and as many velocities; the first position, x, is not observed."""
OBSERVED = 2 * JOINTS - 1
TORQUES = 6
FRAMES = 5
"""Physics steps of 0.01 s in one step of an episode."""
CONTROL_COST = 0.1


class HalfCheetah(PolicyGradient):
    """Reward and dynamics of a two-legged planar robot with torques at six joints.

    Observations, actions and time steps are those of gymnasium's ``HalfCheetah-v5``. With the velocity v
    of a step in m/s, the reward is ``d v - 0.1 |a|^2`` for a direction d, as there, and
    ``-|v - s| - 0.1 |a|^2`` for a speed s (Finn, Abbeel, Levine 2017, "Model-Agnostic Meta-Learning",
    section 5.3). Every episode lasts H steps.
    """

    deviation: ClassVar[float] = 0.5
    exact: ClassVar[bool] = False

    @override
    def begin(self, examples: Examples) -> Step:
        """Place a robot at each episode's first observation, at x = 0."""
        tasks, episodes, _ = examples[X].shape
        robots = [robot for robot in examples[ROBOT][:, 0].tolist() for _ in range(episodes)]
        herd = Herd(robots, examples[X].flatten(0, 1).double().cpu().numpy())
        still_on = torch.ones(tasks, episodes, dtype=torch.bool, device=examples[X].device)

        def step(action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            observed, velocity = herd.step(action.flatten(0, 1).double().cpu().numpy())
            cost = CONTROL_COST * action.square().sum(-1)
            seen = torch.from_numpy(observed).to(action).view(tasks, episodes, OBSERVED)
            pace = torch.from_numpy(velocity).to(action).view(tasks, episodes)
            return seen, _reward(pace, examples) - cost, still_on

        return step


def _reward(velocity: Tensor, examples: Examples) -> Tensor:
    if DIRECTION in examples:
        return examples[DIRECTION] * velocity
    return -(velocity - examples[SPEED]).abs()


class Herd:
    """Simulates N robots in lockstep, each in its own world; float64.

    The robots' states are rows of one array, and robots with the same mass and friction share MuJoCo's
    scratch data, which is expensive to create.

    Args:
        robots: Mass (kg) and sliding friction of each of N robots.
        observations: All positions except x, then the velocities, ``[N, 17]``.
    """

    def __init__(self, robots: list[list[float]], observations: NDArray[np.float64]) -> None:
        import mujoco

        self._mujoco = mujoco
        kinds = {tuple(robot): build_robot(*robot) for robot in robots}
        worlds = {kind: (model, mujoco.MjData(model)) for kind, model in kinds.items()}
        self._worlds = [worlds[tuple(robot)] for robot in robots]
        part = mujoco.mjtState
        # The solver of contact forces warm-starts from the last step's, so they are part of the state.
        self._parts = int(part.mjSTATE_FULLPHYSICS | part.mjSTATE_WARMSTART)
        model = self._worlds[0][0]
        self._states = np.zeros((len(robots), mujoco.mj_stateSize(model, self._parts)))
        for (model, data), state, observed in zip(self._worlds, self._states, observations, strict=True):
            mujoco.mj_resetData(model, data)
            data.qpos[1:] = observed[: JOINTS - 1]
            data.qvel[:] = observed[JOINTS - 1 :]
            mujoco.mj_forward(model, data)
            mujoco.mj_getState(model, data, state, self._parts)

    def step(self, actions: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Apply the torques ``[N, 6]``; return the observations ``[N, 17]`` and velocities ``[N]``.

        Torques are clipped to the motors' limits, [-1, 1], as MuJoCo does itself. NaN and infinity
        become 0, as MuJoCo would log a warning about them to a file in the working directory.
        """
        mujoco = self._mujoco
        actions = np.nan_to_num(actions, posinf=0.0, neginf=0.0).clip(-1.0, 1.0)
        observed = np.empty((len(actions), OBSERVED))
        velocities = np.empty(len(actions))
        for place, ((model, data), state) in enumerate(zip(self._worlds, self._states, strict=True)):
            mujoco.mj_setState(model, data, state, self._parts)
            before = data.qpos[0]
            data.ctrl[:] = actions[place]
            mujoco.mj_step(model, data, nstep=FRAMES)
            mujoco.mj_getState(model, data, state, self._parts)
            velocities[place] = (data.qpos[0] - before) / (model.opt.timestep * FRAMES)
            observed[place, : JOINTS - 1] = data.qpos[1:]
            observed[place, JOINTS - 1 :] = data.qvel
        return observed, velocities


def simulator() -> str:
    """Return the versions of MuJoCo and of gymnasium, which defines the robot.

    Raises:
        DataError: If the extra ``gymnasium`` is not installed.
    """
    if find_spec("mujoco") is None or find_spec("gymnasium") is None:
        raise DataError(
            "MuJoCo and gymnasium, which simulate robots, are not installed: "
            "pip install 'fedmeta[gymnasium]'"
        )
    return f"mujoco {version('mujoco')}, gymnasium {version('gymnasium')}"


@lru_cache(maxsize=256)
def build_robot(mass: float, friction: float) -> "MjModel":
    """Return gymnasium's half-cheetah with the given mass (kg) and friction; its own are 14 and 0.4.

    Raises:
        DataError: As `simulator`.
    """
    simulator()
    import mujoco

    spec = find_spec("gymnasium")
    assert spec is not None
    assert spec.origin is not None
    found = mujoco.MjSpec.from_file(
        str(Path(spec.origin).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml")
    )
    found.compiler.settotalmass = -1
    model = found.compile()
    mujoco.mj_setTotalmass(model, mass)
    model.geom_friction[:, 0] = friction
    # Constants that MuJoCo derives from the masses.
    mujoco.mj_setConst(model, mujoco.MjData(model))
    model.stat.meaninertia = model.dof_M0.mean()
    return model
