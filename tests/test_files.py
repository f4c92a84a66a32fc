"""A file is replaced whole or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

from fedmeta.files import write_atomically


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A real out-of-space error: a process that may write no file beyond 64 KiB."""
    target = tmp_path / "file"
    target.write_bytes(b"old")
    code = (
        "import resource, signal, sys, pathlib\n"
        "from fedmeta.files import write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try:\n    write_atomically(pathlib.Path(sys.argv[1]), b'n' * 100_000)\n"
        "except OSError as error:\n    print(error.errno)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "27", "EFBIG"
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_writing_replaces_the_file_whole(tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    write_atomically(target, json.dumps([1]).encode())
    write_atomically(target, json.dumps([1, 2]).encode())
    assert json.loads(target.read_text()) == [1, 2]
