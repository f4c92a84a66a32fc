"""`fedmeta evaluate`."""

import sys

import typer

from fedmeta.cli.commands import Best, Json, RunPath, Settings, TrustCode
from fedmeta.files import one_line, to_json


def evaluate(
    run_folder: RunPath,
    settings: Settings = None,
    best: Best = False,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Evaluate a trained model on other tasks than its run did.

    On more tasks, on tasks of another shape, or on another family.

    The test clients are those of the run, which never trained. You may set evaluation.tasks and
    evaluation.steps, learner options (rates of adaptation), transductive, and the shape of the test
    tasks (data.test_ways, data.test_shots, data.test_queries). With another task, which needs inputs of
    the same shape, set its data and clients too. Nothing is written.

    Examples:

      fedmeta evaluate runs/omniglot-001 -s evaluation.tasks=1000 -s data.test_shots=5

      fedmeta evaluate runs/omniglot-001 -s task=mnist -s clients=12 -s test_clients=6
    """
    from fedmeta.config import parse_settings
    from fedmeta.config.trust import require_code
    from fedmeta.experiment.evaluate import config_to_evaluate
    from fedmeta.experiment.folder import RunFolder

    changes = parse_settings(settings or [])
    folder = RunFolder.open(run_folder)
    require_code(folder.path, folder.config, trust_code)
    # Refuse before importing torch, which takes seconds.
    config_to_evaluate(folder.config, changes)
    from fedmeta.cli.screen import SafeConsole
    from fedmeta.cli.tables import final_table
    from fedmeta.experiment.learned.model import Learned

    learned = Learned.open(run_folder, best, trust_code=trust_code)
    for note in learned.notes:
        sys.stderr.write(f"fedmeta: {one_line(note)}\n")
    result = learned.evaluate(changes)
    if as_json:
        typer.echo(to_json(result.to_json()))
    else:
        SafeConsole().print(final_table(f"{learned.path.name}, round {result.round}", result.steps))
