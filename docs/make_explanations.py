"""Takes pictures from the reports of four runs, which docs/report.md lists:
`python docs/make_explanations.py MAML MANN PROTONET MNIST docs/figures`.

Needs Playwright and a Chromium, as the tests do.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

from fedmeta.report.writing import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
COLOURS = 200
WIDTH = 1180


def picture(parts: list[Locator], path: Path) -> None:
    """Save pictures side by side, in a palette that keeps the file small."""
    found = []
    for part in parts:
        part.scroll_into_view_if_needed()
        part.page.wait_for_timeout(400)
        found.append(Image.open(io.BytesIO(part.screenshot())).convert("RGB"))
    whole = Image.new(
        "RGB", (sum(one.width + 24 for one in found) - 24, max(one.height for one in found)), "white"
    )
    left = 0
    for one in found:
        whole.paste(one, (left, 0))
        left += one.width + 24
    whole.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def show(page: Page, run: Path, folder: Path) -> Page:
    file = write_report([run], folder / f"{run.name}.html").report
    page.goto(file.as_uri())
    page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    return page


def figures(page: Page, *names: str) -> list[Locator]:
    found = [page.locator(f"figure[data-chart$='{name}']") for name in names]
    for one in found:
        one.scroll_into_view_if_needed()
        one.locator(".main-svg").first.wait_for()
    return found


def main() -> None:
    maml, mann, protonet, mnist, out = map(Path, sys.argv[1:])
    program = next(path for name in NAMES if (path := shutil.which(name)))
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as temporary:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        folder = Path(temporary)
        for run, name in ((mnist, "explained-mnist"), (maml, "explained-support")):
            show(page, run, folder)
            tables = page.locator("table.evidence")
            picture([tables.nth(0), tables.nth(1)], out / f"{name}.png")
        picture(figures(page, "layer-changes", "layer-similarity"), out / "explained-layers.png")
        show(page, mann, folder)
        picture(figures(page, "memory-writes-0", "memory-reads-0"), out / "explained-memory.png")
        show(page, protonet, folder)
        picture(figures(page, "map-0-0", "map-0-1"), out / "explained-map.png")
        browser.close()


if __name__ == "__main__":
    main()
