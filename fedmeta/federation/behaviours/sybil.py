"""Sybil behaviour: several identities of one client."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field
from typing_extensions import override

from fedmeta import options
from fedmeta.federation.behaviours import OtherLearner
from fedmeta.federation.learner import Learner
from fedmeta.tasks import TaskBatch, TaskFamily


class Sybil(OtherLearner):
    """Another identity of a client: trains honestly on that client's data, with its own random draws.

    Douceur 2002, "The Sybil Attack" (IPTPS).
    """

    class Options(options.Options):
        """Options of the identity.

        Attributes:
            owner: The client whose data it has.
            tasks: Tasks per local step, for an owner that splits its work over its identities; None: as
                many as requested.
        """

        owner: int
        tasks: int | None = Field(default=None, ge=1)

    options: Options

    @override
    def learner(self) -> Learner:
        honest = self.stage.learner
        asked = honest.workload.tasks_per_client
        tasks = asked if self.options.tasks is None else min(self.options.tasks, asked)
        workload = replace(honest.workload, tasks_per_client=tasks)
        return Learner(workload, OwnersData(honest.family, self.options.owner), honest.algorithm)


class OwnersData:
    """A task family in which every client has the data of one client.

    Args:
        family: The original family.
        owner: The client.
    """

    Options: ClassVar[type[options.Options]] = options.Options

    def __init__(self, family: TaskFamily, owner: int) -> None:
        self.family = family
        self.spec = family.spec
        self.population = family.population
        self.owner = owner

    def sample(self, client: int, count: int, rng: np.random.Generator) -> TaskBatch:  # noqa: ARG002
        """Draw tasks from the owner's data, for any client."""
        return self.family.sample(self.owner, count, rng)
