"""What official files look like, and the checks that a directory holds them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from symmetry_robustness.errors import UserError

Copy = Literal["official", "other"]

# Written by the downloader beside the files it unpacked from an archive whose own checksum was right.
CHECKSUMS = "checksums.json"


@dataclass(frozen=True)
class Archive:
    """An official archive and the folder it unpacks to.

    Args:
        command: Name in `symrob data NAME`.
        filename: Of the archive.
        folder: The one folder inside it.
        files: The files of that folder that are read, with the size of those whose size is fixed by the format.
        url: Where the archive lies; empty where a Zenodo record says it.
        md5: Of the archive; empty where a Zenodo record says it.
        file_md5: Published checksums of unpacked files; the others are recorded when the archive is unpacked.
        record: Zenodo record.
    """

    command: str
    filename: str
    folder: str
    files: Mapping[str, int | None]
    url: str = ""
    md5: str = ""
    file_md5: Mapping[str, str] = field(default_factory=dict)
    record: int | None = None

    def mend(self, root: Path) -> str:
        """The command that puts the official files in place."""
        return f"symrob data {self.command} --root {root}"


def digest(path: Path, algorithm: str) -> str:
    """Hexadecimal checksum of a file, read in one pass."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def read_recorded(directory: Path) -> dict[str, str]:
    """The sha256 of each file as recorded when the archive was unpacked; empty if there is no record.

    Raises:
        UserError: if the record cannot be read.
    """
    path = directory / CHECKSUMS
    if not path.exists():
        return {}
    try:
        recorded = json.loads(path.read_text())["sha256"]
        return {str(name): str(value) for name, value in recorded.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} is no record of checksums ({error!r}); delete it and unpack the archive again"
        ) from error


def check_files(archive: Archive, directory: Path, names: list[str], copy: Copy) -> None:
    """Check that files are there, have their format's size and, unless another copy is accepted, are the official ones.

    Raises:
        UserError: naming the file, what was expected and the command that mends it.
    """
    mend = f"run `{archive.mend(directory.parent)}`"
    for name in names:
        path, size = directory / name, archive.files[name]
        if not path.is_file():
            raise UserError(f"{path} is missing; {mend}")
        if size is not None and path.stat().st_size != size:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes, expected {size:,}; {mend}")
    if copy == "other":
        return
    recorded = read_recorded(directory)
    accept = "or set data.copy=other to use this copy deliberately"
    for name in names:
        algorithm, expected = (
            ("md5", archive.file_md5[name]) if name in archive.file_md5 else ("sha256", recorded.get(name))
        )
        if expected is None:
            raise UserError(
                f"nothing shows that {directory / name} is the official file, {CHECKSUMS} has no entry for it; "
                f"{mend}, {accept}"
            )
        if (found := digest(directory / name, algorithm)) != expected:
            raise UserError(
                f"{directory / name} is not the official file: {algorithm} {found}, expected {expected}; "
                f"{mend}, {accept}"
            )


def find_directory(archives: list[Archive], root: Path) -> tuple[Archive, Path]:
    """The first archive whose folder lies under the root, or is the root.

    Raises:
        UserError: if there is none.
    """
    for archive in archives:
        for directory in (root / archive.folder, root):
            if directory.name == archive.folder and directory.is_dir():
                return archive, directory
    folders = " nor ".join(archive.folder for archive in archives)
    raise UserError(
        f"data.root={root} contains no {folders}; run `{archives[0].mend(root)}` or set data.root to where it is"
    )
