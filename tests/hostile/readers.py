"""Opens each kind of hostile file the way the commands do."""

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from fedmeta.config import load_config
from fedmeta.config.seals import SEAL
from fedmeta.errors import FedmetaError
from fedmeta.experiment.checkpoint import CheckpointStore, DamagedCheckpointError
from fedmeta.experiment.folder import RunFolder
from fedmeta.experiment.learned.model import Learned
from fedmeta.files import printable
from fedmeta.report.sections.ledger import read_journal
from fedmeta.report.writing import write_report
from fedmeta.serve.site import Site
from fedmeta.tasks.data.omniglot_files import read_characters
from fedmeta.tasks.families.shakespeare import read_play
from fedmeta.tasks.image_files import ImageStyle, read_images
from tests.hostile.corpus import Make

NAMES = {
    "config": "experiment.toml",
    "journal": "journal.sqlite",
    "image": "image.png",
    "text": "play.txt",
    "zip": "images_background.zip",
    "compare": "compare.json",
}


class Reader:
    """Reads hostile files in a scratch folder beside a good run.

    Args:
        run: A finished run.
        scratch: Folder for the hostile files; removed by `clear`.

    Attributes:
        seconds: CPU time to read the last file; if several commands open it, that of the slowest.
    """

    def __init__(self, run: Path, scratch: Path) -> None:
        self.run = run
        self.scratch = scratch
        self.seconds = 0.0
        self._ways: list[float] = []

    def read(self, kind: str, make: Make) -> str | None:
        """Read a file; return the line that refused it, or None if it was read.

        Any other exception is a bug in the reader.
        """
        with warnings.catch_warnings(), self._timed():
            warnings.simplefilter("ignore")
            try:
                self._readers()[kind](make)
            except (FedmetaError, DamagedCheckpointError) as error:
                line = str(error)
                assert "\n" not in line
                assert len(line) < 2000
                assert printable(line) == line, "no control character reaches the terminal"
                return line
        return None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        self._ways.clear()
        began = time.process_time()
        try:
            yield
        finally:
            self.seconds = max(self._ways, default=time.process_time() - began)

    @contextmanager
    def _way(self) -> Iterator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self._ways.append(time.process_time() - began)

    def _readers(self) -> dict[str, Callable[[Make], object]]:
        return {
            "config": lambda make: load_config(str(self._one("config", make))),
            "image": lambda make: read_images([self._one("image", make)], ImageStyle(), (1, 28, 28)),
            "text": lambda make: read_play(self._one("text", make)),
            "zip": lambda make: read_characters([self._one("zip", make)], "omniglot"),
            "journal": lambda make: read_journal(self._one("journal", make).parent),
            "compare": lambda make: self._shown(self._one("compare", make).parent),
            "manifest": lambda make: self._checkpoint(make, ".json"),
            "tensors": lambda make: self._checkpoint(make, ".safetensors"),
            **{name: lambda make, name=name: self._run_with(name, make) for name in _OF_A_RUN},
        }

    def _one(self, kind: str, make: Make) -> Path:
        folder = self.scratch / "runs" / "one"
        folder.mkdir(parents=True)
        make(folder / NAMES[kind])
        return folder / NAMES[kind]

    def _copy(self) -> Path:
        # Without its seal the copy counts as somebody else's run, which readers limit more strictly.
        without = shutil.ignore_patterns(SEAL)
        return Path(shutil.copytree(self.run, self.scratch / "runs" / "one", ignore=without))

    def _run_with(self, name: str, make: Make) -> None:
        folder = self._copy()
        (folder / name).unlink(missing_ok=True)
        make(folder / name)
        self._shown(folder)
        if (folder / name).is_file() and (folder / name).stat().st_size > _LONG:
            # To resume a run of a million rows may take long: only reports have a time limit.
            return
        for log in (RunFolder(folder).metrics, RunFolder(folder).clients, RunFolder(folder).test):
            with suppress(FedmetaError), self._way():
                log()

    def _shown(self, folder: Path) -> None:
        """Render a folder's report and live page, beside a valid run."""
        with self._way():
            written = write_report(
                [folder, self.run], self.scratch / "report.html", csv=self.scratch / "csv"
            )
        assert [part.status for part in written.parts][1] == "finished", (
            "the valid run is still reported"
        )
        for part in written.parts:
            assert not part.problem or "\n" not in part.problem
        with self._way():
            self._served(folder)

    def _served(self, folder: Path) -> None:
        site = Site(folder.parent, lambda: True)
        for row in site.runs()["rows"]:
            json.dumps(row)
            assert len(str(row.get("problem"))) < 2000
            views = [partial(site.page, row["id"])]
            if row["kind"] == "run":
                views.append(partial(site.selected, [row["id"]]))
            for view in views:
                with suppress(FedmetaError):
                    assert view().text

    def _checkpoint(self, make: Make, ending: str) -> None:
        folder = self._copy()
        manifest = max((folder / "checkpoints").glob("round-*.json"))
        for other in (folder / "checkpoints").iterdir():
            if other.stem != manifest.stem:
                other.unlink()
        target = manifest.with_suffix(ending)
        target.unlink()
        make(target)
        if ending == ".safetensors" and target.is_file() and target.stat().st_size < 1 << 20:
            said = json.loads(manifest.read_text())
            sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
            manifest.write_text(json.dumps(said | {"sha256": sha256}))
        for found in CheckpointStore(folder / "checkpoints").newest_first():
            if not isinstance(found, DamagedCheckpointError):
                assert found[1].round >= 0
        Learned.open(folder).export(self.scratch / "model.safetensors")

    def clear(self) -> None:
        """Remove the scratch files."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()


_OF_A_RUN = (
    "run.json",
    "metrics.jsonl",
    "clients.jsonl",
    "test.jsonl",
    "examples.safetensors",
    "explanations.json",
    "streams.json",
)
_LONG = 16 << 20
