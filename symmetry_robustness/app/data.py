"""`symrob data NAME`: downloads an official data set, or accepts an existing one."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from symmetry_robustness.app.arguments import Parser, path
from symmetry_robustness.data.archives import CIFAR10, CIFAR100
from symmetry_robustness.data.corruptions import CIFAR10C_ARCHIVE, CIFAR100C_ARCHIVE
from symmetry_robustness.data.download import ask_zenodo, fetch, unpack
from symmetry_robustness.data.integrity import Archive, check_files
from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.exit_status import run_guarded

ARCHIVES = {
    archive.command: archive for archive in (CIFAR10.archive, CIFAR100.archive, CIFAR10C_ARCHIVE, CIFAR100C_ARCHIVE)
}


def provide(archive: Archive, root: Path, console: Console) -> Path:
    """The folder of an official archive, downloaded and unpacked unless it exists and is valid.

    Raises:
        UserError: if it cannot be downloaded, checked, unpacked or written.
    """
    directory = root / archive.folder
    if directory.is_dir():
        try:
            check_files(archive, directory, list(archive.files), "official")
        except UserError as error:
            console.print(f"{directory} is not taken as it is: {error}")
        else:
            console.print(f"{directory} is already there and valid")
            return directory
    made = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        had_archive = (root / archive.filename).exists()
        if archive.record is not None:
            stated = ask_zenodo(archive)
            archive = replace(stated, url=archive.url or stated.url)
        source = fetch(archive, root, console)
        unpack(archive, source, root, console)
        if not had_archive:
            source.unlink()
    except OSError as error:
        raise UserError(f"--root {root} cannot be used ({error}); choose another directory") from error
    finally:
        if made:
            with contextlib.suppress(OSError):  # it is not empty, or never was
                root.rmdir()
    console.print(f"{directory} is ready; use it with data.root={root}")
    return directory


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when the data set is in place.

    Raises:
        UserError: if it could not be put in place.
    """
    parser = Parser(prog="symrob data", description="Download, check and unpack an official data set.")
    parser.add_argument("name", choices=sorted(ARCHIVES))
    parser.add_argument("--root", type=path, default=Path("data"), help="directory to hold it (default: data)")
    parser.add_argument("--url", default="", help="a mirror of the archive; its checksum must be the official one")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    archive = ARCHIVES[arguments.name]
    if arguments.url:
        archive = replace(archive, url=arguments.url)
    provide(archive, arguments.root.expanduser(), Console())
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(main))
