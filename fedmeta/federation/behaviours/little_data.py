"""A client with data for few tasks."""

from dataclasses import replace

from pydantic import Field
from typing_extensions import override

from fedmeta import options
from fedmeta.federation.behaviours import OtherLearner
from fedmeta.federation.learner import Learner


class LittleData(OtherLearner):
    """Has data for fewer tasks than requested, and reports how many it used."""

    class Options(options.Options):
        """Options of the shortage.

        Attributes:
            tasks: Tasks per local step, fewer than other clients have.
        """

        tasks: int = Field(default=1, ge=1)

    options: Options

    @override
    def learner(self) -> Learner:
        honest = self.stage.learner
        fewer = min(self.options.tasks, honest.workload.tasks_per_client)
        workload = replace(honest.workload, tasks_per_client=fewer)
        return Learner(workload, honest.family, honest.algorithm)
