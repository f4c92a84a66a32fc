"""The README's Python code runs as shown."""

import re
import sys
from pathlib import Path

from tests import processes

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_python_of_the_readme_runs_in_an_empty_folder(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert blocks, "the README shows no ```python block"
    done = processes.run([sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout, "a reader should see what it did"
