"""Takes the pictures of the live page and of a notebook: `python docs/make_screenshots.py docs/figures`.

Needs the tools of the tests: Playwright, a Chromium, nbclient and Pillow. It makes its runs in a folder
that it removes. Takes two to four minutes on two cores.
"""

import html
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

FEDMETA = [sys.executable, "-m", "fedmeta"]
CHAIN = ["-s", "chain.provider=embedded", "-s", "chain.staking.enabled=true", "-s", "chain.claim=never"]
POISONERS = '[{kind="poison", clients=[3, 7]}]'
TRACKED = ["-s", "evaluation.track=20", "-s", f"behaviours={POISONERS}", "-s", "gate.max_norm=100"]
CELLS = (
    "import fedmeta\n\n"
    'result = fedmeta.run("quickstart", {"rounds": 80, "evaluation.track": 20})\n'
    "result",
    'result.frame("metrics")[["round", "accuracy_before", "accuracy"]].tail(3)',
)
STYLE = """
body { font: 14px system-ui, sans-serif; margin: 24px; width: 1040px; }
.cell { display: grid; grid-template-columns: 64px 1fr; margin-bottom: 12px; }
.mark { color: #607080; font: 13px monospace; padding-top: 9px; }
pre { margin: 0; font: 13px monospace; white-space: pre-wrap; }
.code { background: #f5f7f9; border: 1px solid #d5dce3; padding: 8px; }
.output { padding: 4px 8px; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 3px 10px; text-align: right; }
"""


def command(*words: str) -> list[str]:
    return [*FEDMETA, *words]


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder of runs; yields the page's address."""
    with subprocess.Popen(
        command("serve", "runs", "--port", "0", "--json"), cwd=folder, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["address"].rstrip("/")
        finally:
            server.terminate()


@contextmanager
def training(folder: Path) -> Iterator[None]:
    """Run an experiment in the background; yields after its fortieth round."""
    words = ["run", "quickstart", "--out", "runs/quickstart-002", *CHAIN, *TRACKED]
    with subprocess.Popen(command(*words), cwd=folder, stdout=subprocess.DEVNULL) as run:
        try:
            metrics = folder / "runs" / "quickstart-002" / "metrics.jsonl"
            while not metrics.is_file() or metrics.read_text().count("\n") < 40:
                time.sleep(0.2)
            yield
        finally:
            run.terminate()


def save(page: Page, file: Path, height: int) -> None:
    """Save the top of a page in 256 colours, which is a third of the size."""
    page.set_viewport_size({"width": page.viewport_size["width"], "height": height})
    page.wait_for_timeout(2000)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size // 1024} KB")


def opened(browser: Browser, address: str, width: int) -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(address)
    return page


def notebook(folder: Path) -> str:
    """Run the cells in a kernel, and return them and their results as a page."""
    cells = [nbformat.v4.new_code_cell(code) for code in CELLS]
    book = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    shown = []
    for number, cell in enumerate(book.cells, 1):
        shown.append(_row(f"In [{number}]:", f'<pre class="code">{html.escape(cell.source)}</pre>'))
        for output in cell.outputs:
            data: dict[str, Any] = output.get("data", {"text/plain": output.get("text", "")})
            plain = f"<pre>{html.escape(data.get('text/plain', ''))}</pre>"
            shown.append(_row("", f'<div class="output">{data.get("text/html", plain)}</div>'))
    return f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{''.join(shown)}"


def _row(mark: str, content: str) -> str:
    return f'<div class="cell"><div class="mark">{mark}</div><div>{content}</div></div>'


def main() -> None:
    images = Path(sys.argv[1])
    images.mkdir(exist_ok=True)
    chromium = next(path for name in ("chromium", "google-chrome") if (path := shutil.which(name)))
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        folder = Path(scratch)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        subprocess.run(
            command("run", "quickstart", "-s", "rounds=100", *CHAIN, *TRACKED), cwd=folder, check=True
        )
        with serving(folder) as address:
            done = f"{address}/runs/quickstart-001/"
            save(opened(browser, done, 1200), images / "page-finished.png", 1300)
            save(opened(browser, done, 390), images / "page-phone.png", 1000)
            with training(folder):
                save(opened(browser, address, 1200), images / "page-list.png", 360)
                live = f"{address}/runs/quickstart-002/"
                save(opened(browser, live, 1200), images / "page-running.png", 900)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        (folder / "book.html").write_text(notebook(folder), encoding="utf-8")
        save(opened(browser, (folder / "book.html").as_uri(), 1100), images / "notebook.png", 830)


if __name__ == "__main__":
    main()
