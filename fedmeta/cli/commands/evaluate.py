"""`fedmeta evaluate`."""

import sys

import typer

from fedmeta.cli.commands import Best, Json, RunPath, Settings, TrustCode, import_torch
from fedmeta.files import one_line, to_json


def evaluate(
    run_folder: RunPath,
    settings: Settings = None,
    best: Best = False,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Evaluate a trained model on tasks other than its run's.

    They may be more tasks, tasks of another shape, or tasks of another family.

    The test clients are those of the run, which never trained. You may set evaluation.tasks,
    evaluation.steps and evaluation.stream, learner options (rates of adaptation), transductive, and the
    shape of the test tasks (data.test_ways, data.test_shots, data.test_queries). To evaluate on another
    task family, set task, and its data and clients too; its inputs must have the same shape. Nothing is
    written.

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
    import_torch()
    from fedmeta.cli.screen import SafeConsole
    from fedmeta.cli.tables import final_table, streams_table
    from fedmeta.experiment.learned.model import Learned

    learned = Learned.open(run_folder, best, trust_code=trust_code)
    for note in learned.notes:
        sys.stderr.write(f"fedmeta: {one_line(note)}\n")
    result = learned.evaluate(changes)
    if as_json:
        typer.echo(to_json(result.to_json()))
    else:
        SafeConsole().print(final_table(f"{learned.path.name}, round {result.round}", result.steps))
        if result.streams:
            SafeConsole().print(streams_table(result.streams))
