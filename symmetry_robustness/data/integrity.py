"""Official archives, and whether a directory holds their files unaltered."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
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
        record: Zenodo record.
    """

    command: str
    filename: str
    folder: str
    files: Mapping[str, int | None]
    url: str = ""
    md5: str = ""
    record: int | None = None

    def download_command(self, root: Path) -> str:
        """The command that puts the official files in place."""
        return f"symrob data {self.command} --root {root}"


def digest(path: Path, algorithm: str) -> str:
    """Hexadecimal checksum of a file, read in one pass."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def check_files(archive: Archive, directory: Path, names: list[str], copy: Copy) -> None:
    """Check that files are there, have their format's size and, unless another copy is accepted, are the official ones.

    Raises:
        UserError: naming the file, what was expected and the command that puts it right.
    """
    remedy = f"run `{archive.download_command(directory.parent)}`"
    for name in names:
        path, size = directory / name, archive.files[name]
        if not path.is_file():
            raise UserError(f"{path} is missing; {remedy}")
        if size is not None and path.stat().st_size != size:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes, expected {size:,}; {remedy}")
    if copy == "other":
        return
    record, recorded = directory / CHECKSUMS, {}
    if record.exists():
        try:
            recorded = dict(json.loads(record.read_text())["sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{record} is no record of checksums ({error!r}); delete it and unpack the archive again"
            ) from error
    accept = "or set data.copy=other to use this copy deliberately"
    for name in names:
        expected = recorded.get(name)
        if expected is None:
            raise UserError(
                f"nothing shows that {directory / name} is the official file, {CHECKSUMS} has no entry for it; "
                f"{remedy}, {accept}"
            )
        if (found := digest(directory / name, "sha256")) != expected:
            raise UserError(
                f"{directory / name} is not the official file: sha256 {found}, expected {expected}; {remedy}, {accept}"
            )


def find_directory(archive: Archive, root: Path) -> Path:
    """The archive's folder, which lies under the root or is the root.

    Raises:
        UserError: if there is none.
    """
    for directory in (root / archive.folder, root):
        if directory.name == archive.folder and directory.is_dir():
            return directory
    raise UserError(
        f"data.root={root} contains no {archive.folder}; run `{archive.download_command(root)}` or set data.root to "
        "where it is"
    )
