"""Limits of zip files, and what reading a corrupt one may raise."""

import struct
import zipfile
import zlib

from fedmeta.files import printable

MOST_MEMBERS = 100_000
MOST_UNPACKED = 1 << 28
"""Bytes of all members together, unpacked."""

BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    SyntaxError,
    RuntimeError,
    NotImplementedError,
    LookupError,
)
"""What a damaged archive or member raises."""


def require_small(archive: zipfile.ZipFile) -> None:
    """Refuse an archive with too many or too large members, before unpacking it."""
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if len(members) > MOST_MEMBERS or unpacked > MOST_UNPACKED:
        raise ValueError(
            f"{len(members)} members of {unpacked} bytes, more than the limits of {MOST_MEMBERS} and "
            f"{MOST_UNPACKED}"
        )
    for member in members:
        if printable(member.filename) != member.filename or ".." in member.filename.split("/"):
            raise ValueError(f"a member has the name {member.filename[:80]!a}")
