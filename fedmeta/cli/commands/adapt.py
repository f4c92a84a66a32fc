"""`fedmeta adapt`: label images from a few examples."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmeta.cli.commands import Best, Json, RunPath, Samples, TrustCode, import_torch
from fedmeta.cli.output_files import require_new, require_weights_file, write_pictures
from fedmeta.errors import UsageError
from fedmeta.files import one_line, to_json

if TYPE_CHECKING:
    from fedmeta.experiment.learned.folders import Answer


class Invert(StrEnum):
    """Whether the images have dark ink."""

    auto = "auto"
    yes = "yes"
    no = "no"


def adapt(  # noqa: PLR0913 (one for each option)
    run_folder: RunPath,
    support: Annotated[
        Path, typer.Option(metavar="DIR", help="Labelled images: one sub-folder per class.")
    ],
    query: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Images to label; with one sub-folder per class, accuracy is shown."
        ),
    ],
    steps: Annotated[
        int | None, typer.Option(min=0, help="Adaptation steps; default: the last of evaluation.steps.")
    ] = None,
    invert: Annotated[
        Invert, typer.Option(help="Whether the ink is dark; auto decides by the image edges.")
    ] = Invert.auto,
    samples: Annotated[
        Samples,
        typer.Option(help="Bits actually used in 16-bit or float images; auto decides from all images."),
    ] = Samples.auto,
    transductive: Annotated[
        bool,
        typer.Option("--transductive", help="Use batch-norm statistics of the query images."),
    ] = False,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="ESTIMATOR",
            help="Fit this scikit-learn classifier to the features instead: 'sklearn.svm.SVC(C=10)'.",
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Name the support images that speak for each prediction."),
    ] = False,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw each image (the first 40) beside the support images that speak for its label, as "
            "a PNG.",
        ),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save the adapted weights as safetensors.")
    ] = None,
    best: Best = False,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Adapt a trained model to labelled images, and label others.

    Images may be PNG, JPEG, TIFF, BMP, GIF or WebP of any size, colour and depth. Preprocessing is
    logged to stderr; `fedmeta data check DIR` shows in advance how a folder would be read. A run on
    sounds takes the same folders of WAV files; a run on a table takes two CSV files, and predicts the
    rows of the second.

    Example:

      fedmeta adapt runs/omniglot-20way-1shot-protonet-001 --support letters --query unknown
    """
    from fedmeta.experiment.folder import RunFolder
    from fedmeta.tasks.image_folder import list_labelled
    from fedmeta.tasks.own.folders import IMAGES, kind_of

    # Refuse before importing torch, which takes seconds.
    RunFolder.open(run_folder)
    require_weights_file("--save", save)
    if support.is_file() and query.is_file():
        if explain or pictures:
            what = "--explain" if explain else "--pictures"
            raise UsageError(f"{what} is for folders of files: a table's rows are not explained")
        _adapt_tables(run_folder, (support, query), steps, (best, trust_code), as_json)
        return
    list_labelled(support, query)
    if pictures:
        require_new(pictures, support, query)
        if save and save.resolve() == pictures.resolve():
            raise UsageError(f"--save and --pictures both name {save}")
        if kind_of(support) is not IMAGES:
            raise UsageError(f"--pictures is for folders of images: {support} holds none")
    import_torch()
    from fedmeta.experiment.learned.folders import Folders, adapt_folders
    from fedmeta.experiment.learned.model import Learned

    explain = explain or pictures is not None
    folders = Folders(support, query, steps, invert.value, transductive, samples.bits, head, explain)
    answer = adapt_folders(Learned.open(run_folder, best, trust_code=trust_code), folders)
    for note in answer.notes:
        sys.stderr.write(f"fedmeta: {one_line(note)}\n")
    if pictures:
        from fedmeta.tasks.own.contact_sheet import draw_rows

        write_pictures(pictures, draw_rows(answer.rows(), samples.bits), answer.without_row)
    if save:
        answer.adapted.save(save)
    if as_json:
        typer.echo(to_json(answer.to_json() | {"saved": str(save) if save else None}))
    else:
        _show(answer)


def _adapt_tables(
    run: Path, files: tuple[Path, Path], steps: int | None, how: tuple[bool, bool], as_json: bool
) -> None:
    import_torch()
    from fedmeta.experiment.learned.model import Learned
    from fedmeta.experiment.learned.tables import adapt_tables

    learned = Learned.open(run, how[0], trust_code=how[1])
    answer = adapt_tables(learned, *files, steps)
    for note in learned.notes:
        sys.stderr.write(f"fedmeta: {one_line(note)}\n")
    if as_json:
        typer.echo(to_json(answer.to_json()))
        return
    for row in answer.rows:
        value = f"{row.value:.4g}" if isinstance(row.value, float) else one_line(row.value)
        sure = "" if row.probability is None else f"  {row.probability:.3f}"
        wrong = "" if row.truth in (None, row.value) else f"  (is {one_line(row.truth)})"
        typer.echo(f"line {row.line}  {one_line(row.target)} {value}{sure}{wrong}")
    for name, quality in answer.quality.items():
        typer.echo(f"{one_line(name)} {quality:.3f}")


def _show(answer: "Answer") -> None:
    width = max(len(one_line(one.file)) for one in answer.files)
    names = max(len(one_line(one.label)) for one in answer.files)
    for one in answer.files:
        wrong = "" if one.truth in (None, one.label) else f"  (is {one_line(one.truth)})"
        line = (
            f"{one_line(one.file):{width}}  {one_line(one.label):{names}}  {one.probability:.3f}{wrong}"
        )
        # A file name may contain bytes that are not valid text.
        typer.echo(line.encode(errors="replace").decode())
        for reason in one.support or ():
            value = f"{reason.value:{'' if answer.how == 'weights' else '+'}.3f}"
            said = f"    {value}  {one_line(reason.file)}"
            typer.echo(said.encode(errors="replace").decode())
    if answer.accuracy is not None:
        typer.echo(f"accuracy {answer.accuracy:.3f} ({answer.right} of {len(answer.files)})")
