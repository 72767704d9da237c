"""A run directory: its files, and how a run is created, found and refreshed."""

import contextlib
import hashlib
import json
import secrets
import shutil
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.files import replace_file, unused
from symmetry_robustness.runs.json_files import read_mapping, write_json
from symmetry_robustness.runs.liveness import is_locked
from symmetry_robustness.runs.provenance import PROVENANCE, code_version, read_provenance

CONFIG: Final = "config.yaml"
SUMMARY: Final = "summary.json"
PROGRESS: Final = "progress.json"
LOG: Final = "log.txt"
CHECKPOINTS: Final = "checkpoints"
ROBUSTNESS: Final = "robustness"
LOCK: Final = ".lock"
SUBMISSION: Final = "slurm.json"
# Settings that decide where a result lies or is shown, but not its numbers.
NON_RESULT_KEYS: Final = ("title", "output", "group", "tags", "logger", "resume")


def create_run(config: DictConfig, directory: Path, command: list[str]) -> None:
    """Make `directory` the run directory of a job that has not started.

    The directory is written under another name and renamed, so that of several processes one wins and none sees half.

    Args:
        config: resolved and checked.
        directory: new, or empty.
        command: the argv the user typed.

    Raises:
        UserError: the directory cannot become one, see `check_free`; nothing is overwritten.
    """
    check_free(directory)
    unfinished = unused(directory.absolute())
    try:
        write_json(unfinished / PROVENANCE, _provenance(config, command), durable=True)
        replace_file(unfinished / CONFIG, OmegaConf.to_yaml(config), durable=True)
        try:
            unfinished.rename(directory)
        except OSError:
            check_free(directory)  # another process was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_free(directory: Path) -> None:
    """Refuse a directory that cannot become a run directory.

    Raises:
        UserError: it holds a run or other files, or is the current one.
    """
    if (directory / CONFIG).exists():
        raise UserError(
            f"{directory} already holds a run; resume it (resume=auto) or choose another directory (hydra.run.dir=…)"
        )
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise UserError(f"{directory} is not empty; choose a new directory for the run (hydra.run.dir=…)")
    if directory.is_dir() and directory.samefile("."):
        raise UserError(
            f"{directory} is the current directory, which a run cannot replace; "
            "name a new one (hydra.run.dir=…) and leave out hydra.job.chdir"
        )


def remove_unused(directory: Path) -> None:
    """Remove a directory that Hydra has made for jobs, if nothing else has written to it."""
    with contextlib.suppress(OSError):  # another process uses it, or it is gone
        if not directory.samefile(".") and {path.name for path in directory.iterdir()} <= {"multirun.yaml"}:
            (directory / "multirun.yaml").unlink(missing_ok=True)
            directory.rmdir()


def remove_untrained(directory: Path) -> None:
    """Remove a run that was refused before its first step, so that the corrected command finds its place free."""
    progress = read_mapping(directory / PROGRESS) or {}
    if not progress.get("step") and not any((directory / CHECKPOINTS).glob("*.ckpt")):
        shutil.rmtree(directory, ignore_errors=True)


def refresh_run(config: DictConfig, directory: Path, command: list[str]) -> None:
    """Rewrite damaged files of a run that is resumed, and take over settings of `NON_RESULT_KEYS`.

    A run that is done, or that a process is running, keeps its settings.
    """
    done = is_done(directory)
    try:
        outdated = read_config(directory) != config and not done and not is_locked(directory / LOCK)
    except UserError:
        outdated = True
    if outdated:
        replace_file(directory / CONFIG, OmegaConf.to_yaml(config), durable=True)
    if not done:
        try:
            read_provenance(directory)
        except UserError:
            write_json(directory / PROVENANCE, _provenance(config, command), durable=True)


def _provenance(config: DictConfig, command: list[str]) -> dict[str, Any]:
    """The provenance of a run that has not started."""
    return {
        "command": command,
        "submitted": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "seed": config.seed,
        "key": config_hash(config),
        "wandb_id": secrets.token_hex(4),
        **code_version(),
    }


def config_hash(config: DictConfig) -> str:
    """Twelve hexadecimal digits that two jobs, resolved, share if the second would repeat the first."""
    return hashlib.sha256(json.dumps(_result_settings(config), sort_keys=True).encode()).hexdigest()[:12]


def first_difference(config: DictConfig, other: DictConfig) -> str | None:
    """The first setting, with both values, by which two configurations give different results; else None."""
    from symmetry_robustness.results.names import flatten  # and numpy, which `symrob status` need not import

    flat, flat_other = flatten(_result_settings(config)), flatten(_result_settings(other))
    for name in [*flat, *flat_other]:
        if flat.get(name) != flat_other.get(name):
            return f"{name}: {flat.get(name)} and {flat_other.get(name)}"
    return None


def _result_settings(config: DictConfig) -> dict[str, Any]:
    content = cast(dict[str, Any], OmegaConf.to_container(config))
    return {key: value for key, value in content.items() if key not in NON_RESULT_KEYS}


def find_run(directory: Path, config: DictConfig) -> Path | None:
    """The run to resume: the one in `directory`, else the newest beside it with the same `config_hash`.

    Raises:
        UserError: `directory` holds a run of other settings.
    """
    if (directory / CONFIG).exists():
        difference = first_difference(read_config(directory), config)
        if difference is not None:
            raise UserError(f"{directory} holds another run ({difference}); choose another directory (hydra.run.dir=…)")
        return directory
    key, found = config_hash(config), []
    for path in directory.parent.glob(f"*/{PROVENANCE}"):
        provenance = read_mapping(path) or {}
        if provenance.get("key") == key and (path.parent / CONFIG).exists():
            found.append((str(provenance.get("submitted")), path.parent))
    return max(found)[1] if found else None


def is_done(directory: Path) -> bool:
    """Whether the run in `directory` has finished with results, none of whose files is cut off."""
    summary = read_mapping(directory / SUMMARY) or {}
    return summary.get("status") == "done" and damaged_file(directory, summary) is None


def damaged_file(directory: Path, summary: Mapping[str, Any]) -> Path | None:
    """A file of a finished run that is cut off, or a report that is gone; found by the ends of files, so at once.

    Args:
        directory: of the run.
        summary: its summary.json.
    """
    report = directory / ROBUSTNESS / "test.json"
    checkpoint = directory / CHECKPOINTS / "last.ckpt"  # which may have been removed to save space
    expected = [report.with_suffix(".npz")] if summary.get("robustness_images") else []
    if expected and not read_mapping(report):
        return report
    return next((path for path in [*expected, *([checkpoint] if checkpoint.exists() else [])] if not _ends(path)), None)


def _ends(archive: Path) -> bool:
    """Whether an archive has its end, where its table of contents stands."""
    try:
        return zipfile.is_zipfile(archive)
    except OSError:
        return False


def read_config(directory: Path) -> DictConfig:
    """The frozen configuration of a run.

    Raises:
        UserError: `directory` is not a run directory, or its configuration is damaged.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise UserError(f"{directory} is not a run directory: it has no {CONFIG}")
    try:
        config = OmegaConf.create(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}); restore it or train again") from None
    if not isinstance(config, DictConfig) or not isinstance(config.get("data"), DictConfig):
        raise UserError(f"{path} is damaged: it is no configuration of a run; restore it or train again")
    return config
