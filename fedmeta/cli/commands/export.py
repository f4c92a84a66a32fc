"""`fedmeta export`: write a run's model as a plain PyTorch state_dict."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedmeta.cli.commands import Best, Json, RunPath, TrustCode
from fedmeta.cli.output_files import require_weights_file
from fedmeta.files import one_line, to_json


def export(
    run_folder: RunPath,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write; default: RUN/model.safetensors.")
    ] = None,
    best: Best = False,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Export a run's model as a plain PyTorch state_dict.

    The weights have the layouts of torch.nn. The Python code that loads them is printed on stdout.

    Example:

      fedmeta export runs/quickstart-001 --out model.safetensors > load_model.py
    """
    from fedmeta.experiment.folder import RunFolder

    # Refuse before importing torch.
    RunFolder.open(run_folder)
    require_weights_file("--out", out)
    from fedmeta.experiment.learned.model import Learned
    from fedmeta.learning.export import FILE

    learned = Learned.open(run_folder, best, trust_code=trust_code)
    path = out or learned.path / FILE
    plain = learned.export(path)
    code = plain.code and plain.code.replace(json.dumps(FILE), json.dumps(str(path)))
    for note in learned.notes:
        sys.stderr.write(f"fedmeta: {one_line(note)}\n")
    left_out = learned.beside_weights
    if as_json:
        shapes = {name: list(value.shape) for name, value in plain.tensors.items()}
        about = {"run": str(learned.path), "round": learned.round, "file": str(path)}
        typer.echo(to_json(about | {"tensors": shapes, "left_out": left_out, "code": code}))
        return
    sys.stderr.write(f"fedmeta: the weights of round {learned.round} are in {path}\n")
    if left_out:
        sys.stderr.write(f"fedmeta: left out, as not weights of the network: {', '.join(left_out)}\n")
    if code:
        typer.echo(code, nl=False)
    else:
        sys.stderr.write(
            "fedmeta: not a torch.nn network: the tensors keep the names they have in fedmeta\n"
        )
