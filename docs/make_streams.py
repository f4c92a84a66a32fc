"""Takes the pictures of streams in docs/results.md from the reports of two comparisons, which the page
lists: `python docs/make_streams.py SINUSOID MNIST docs/figures`.

Needs Playwright and a Chromium, as the tests do.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from make_explanations import NAMES, WIDTH, figures, picture, show
from PIL import Image, ImageOps
from playwright.sync_api import sync_playwright


def main() -> None:
    sinusoid, mnist, out = map(Path, sys.argv[1:])
    program = next(path for name in NAMES if (path := shutil.which(name)))
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as name:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        folder = Path(name)
        show(page, sinusoid, folder)
        picture(figures(page, "stream-loss", "stream-matrix-0"), out / "streams-sinusoid.png")
        show(page, mnist, folder)
        picture(figures(page, "stream-matrix-0", "stream-matrix-1"), out / "streams-mnist.png")
        browser.close()
    for name in ("streams-sinusoid.png", "streams-mnist.png"):
        # A figure is as high as the highest beside it in the report.
        whole = Image.open(out / name)
        used = ImageOps.invert(whole.convert("L")).getbbox()
        whole.crop((0, 0, whole.width, used[3] + 8)).save(out / name, optimize=True)


if __name__ == "__main__":
    main()
