"""Archives as a training job writes them, and as nobody should."""

from __future__ import annotations

import io
import tarfile
from typing import NamedTuple


class Member(NamedTuple):
    name: str
    content: bytes = b"x"
    kind: bytes = tarfile.REGTYPE


def tar(*members: Member) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as made:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = (len(content), kind) if kind == tarfile.REGTYPE else (0, kind)
            info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            made.addfile(info, io.BytesIO(content))
    return archive.getvalue()
