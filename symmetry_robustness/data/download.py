"""Fetching an official archive and unpacking it, so that an interruption leaves nothing half-made in place."""

import json
import logging
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

from pypdl import Pypdl
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from symmetry_robustness.data.integrity import CHECKSUMS, Archive, check_files, digest
from symmetry_robustness.errors import UserError

ZENODO = "https://zenodo.org/api/records/"
_RETRIES = 5
# The archive, pypdl's part of it while it joins them, and the unpacked files lie side by side for a moment.
_SPACE = 2.5


def ask_zenodo(archive: Archive) -> Archive:
    """The archive with the address and the checksum that its Zenodo record states.

    Raises:
        UserError: if the record cannot be had or does not list the archive.
    """
    url = f"{ZENODO}{archive.record}"
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            files = json.load(response)["files"]
        entry = next(file for file in files if file["key"] == archive.filename)
        algorithm, checksum = entry["checksum"].split(":")
        address = str(entry["links"]["self"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise UserError(
            f"{url} does not say the checksum of {archive.filename} ({error!r}); try again later"
        ) from error
    if algorithm != "md5":
        raise UserError(f"{url} states a checksum of type {algorithm}, expected md5; update this program")
    return replace(archive, url=address, md5=checksum)


def fetch(archive: Archive, root: Path, console: Console) -> Path:
    """Download an archive into a directory, going on where an earlier attempt stopped, and check it.

    Returns:
        The complete archive, whose checksum is right.

    Raises:
        UserError: if the disk is too small, the download fails (its parts stay for the next attempt) or the checksum
            is wrong (the file is deleted).
    """
    target, partial = root / archive.filename, root / f"{archive.filename}.partial"
    if target.exists():
        if digest(target, "md5") == archive.md5:
            console.print(f"{target} is already there and complete")
            return target
        raise UserError(
            f"{target} is not the official archive: expected md5 {archive.md5}; move it away and start again"
        )
    _download(archive.url, partial, _check_space(archive, root), console)
    if (found := digest(partial, "md5")) != archive.md5:
        partial.unlink()
        raise UserError(
            f"{archive.url} has md5 {found}, expected {archive.md5}; deleted it, start again or use another --url"
        )
    return partial.replace(target)


def _check_space(archive: Archive, root: Path) -> int:
    """Size of the archive in bytes, after checking that the disk has room for it; 0 if the server does not say."""
    try:
        request = urllib.request.Request(archive.url, method="HEAD")
        with urllib.request.urlopen(request, timeout=60) as response:
            size = int(response.headers.get("Content-Length") or 0)
    except urllib.error.HTTPError as error:
        with error:  # the error is the server's answer, which would stay open
            raise UserError(f"{archive.url} answers {error.code} {error.reason}; use another --url") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{archive.url} cannot be reached ({error}); try again later or use another --url") from error
    have = sum(path.stat().st_size for path in root.glob(f"{archive.filename}.partial*"))
    needed, free = int(_SPACE * size) - have, shutil.disk_usage(root).free
    if free < needed:
        raise UserError(
            f"--root {root} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed; choose another directory"
        )
    return size


def _download(url: str, path: Path, size: int, console: Console) -> None:
    # Its own logger writes pypdl.log into the current directory.
    logger = logging.getLogger("symmetry_robustness.download")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    loader = Pypdl(logger=logger)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    try:
        # One segment, because only segments are resumed (all but the last few megabytes before a break); servers
        # without ETag are trusted, the checksum judges.
        future = loader.start(
            url, str(path), segments=1, retries=_RETRIES, etag_validation=False, block=False, display=False
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(path.name.removesuffix(".partial"), total=size or None)
            while not loader.is_idle:  # its `result` would look once a second
                progress.update(task, completed=loader.current_size)
                time.sleep(0.1)
            succeeded = bool(future.result())
            progress.update(task, completed=path.stat().st_size if succeeded else loader.current_size)
    except KeyboardInterrupt:
        loader.shutdown()
        console.print(f"{url} is not complete; start again, it goes on from here")
        raise
    if not succeeded:
        raise UserError(f"{url} broke off after {_RETRIES} attempts; start again, it goes on from here")


def unpack(archive: Archive, source: Path, root: Path, console: Console) -> Path:
    """Unpack the files that are read into their folder, at once or not at all.

    Only the expected regular files are taken out, each under its own name, so nothing in the archive decides where
    something is written. A folder that is already there is set aside, not deleted.

    Returns:
        The folder, with the checksums of its files beside them.

    Raises:
        UserError: if the archive is damaged or lacks a file.
    """
    with tempfile.TemporaryDirectory(prefix=f".{archive.folder}-", dir=root) as temporary:
        made, target = Path(temporary) / archive.folder, root / archive.folder
        made.mkdir()
        try:
            _extract(archive, source, made)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise UserError(f"{source} cannot be unpacked ({error}); delete it and start again") from error
        check_files(archive, made, list(archive.files), "other")
        record = {
            "archive": archive.filename,
            "md5": archive.md5,
            "sha256": {name: digest(made / name, "sha256") for name in archive.files},
        }
        (made / CHECKSUMS).write_text(json.dumps(record, indent=2) + "\n")
        if target.exists():
            aside = root / f"{archive.folder}.replaced-{time.strftime('%Y%m%dT%H%M%S')}"
            target.rename(aside)
            console.print(f"set the old {target} aside as {aside}; delete it if you do not need it")
        return made.rename(target)


def _extract(archive: Archive, source: Path, directory: Path) -> None:
    wanted = {f"{archive.folder}/{name}": name for name in archive.files}
    with tarfile.open(source) as tar:
        for member in tar:
            name = wanted.get(member.name.removeprefix("./"))
            content = tar.extractfile(member) if name is not None and member.isreg() else None
            if name is not None and content is not None:
                with content, (directory / name).open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
