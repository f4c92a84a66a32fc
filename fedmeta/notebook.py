"""What a run is to a notebook: its curve, its result, and its model to adapt."""

from pathlib import Path

from fedmeta.experiment.learned.model import Learned
from fedmeta.report.snippet import run_snippet


class LoadedRun(Learned):
    """A run's meta-learned model, which shows itself as a curve and a table in Jupyter."""

    def _repr_html_(self) -> str:
        return run_snippet(self.path)


def load(
    run: Path | str, best: bool = False, *, trust_code: bool = False, device: str = "cpu"
) -> LoadedRun:
    """Load what a run has learned.

    Args:
        run: The run's folder, such as ``runs/quickstart-001``; the run need not have finished.
        best: Take the checkpoint that scored best, by the validation clients where there are any,
            instead of the newest.
        trust_code: Run the code that the run's config names (a model of its own), although the folder
            was not made here or was changed since.
        device: Where it adapts and predicts: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.

    Returns:
        The model: ``load(run).adapt(support_x, support_y).predict(x)``; see `Learned`.

    Raises:
        UsageError: If there is no such run, no checkpoint of it can be used, or the folder was not made
            here and names code.
        DataError: If the run is of a version that did not write down the shape of its tasks, and its
            data is missing.
    """
    return LoadedRun.open(run, best, trust_code=trust_code, device=device)
