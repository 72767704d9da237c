"""Checkpoints as sources of transfer attacks."""

import functools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from symmetry_robustness.attacks.base import AttackCall
from symmetry_robustness.errors import UserError
from symmetry_robustness.models import load_checkpoint
from symmetry_robustness.models.checkpoint import Checkpoint
from symmetry_robustness.robustness import Source, Transfer
from symmetry_robustness.runs.directory import CONFIG


def transfer_from(sources: Sequence[str] | None, attack: AttackCall, trusted: Sequence[str] | None = ()) -> Transfer:
    """An attack crafted on the networks of checkpoints.

    Args:
        sources: paths of checkpoints. Each is named as its run, with its seed where several are of one name. None in a
            command that has none.
        attack: works on a source as if it were the target.
        trusted: modules of your own whose classes the checkpoints may name; see `load_checkpoint`.

    Raises:
        UserError: no source, one given twice, or a file that is no checkpoint.
    """
    if sources is None:
        raise UserError(
            "sources are known to `symrob evaluate` alone; evaluate the checkpoint with robustness=transfer"
        )
    if not sources:
        raise UserError(
            "sources is empty; name the networks on which images are crafted, as in sources=[a.ckpt,b.ckpt]"
        )
    return Transfer(_load(tuple(map(str, sources)), tuple(trusted or ())), attack)


@functools.lru_cache(maxsize=1)  # every rule of a protocol has the same sources
def _load(paths: tuple[str, ...], trusted: tuple[str, ...]) -> tuple[Source, ...]:
    found: dict[str, tuple[Path, Checkpoint]] = {}
    for path in map(Path, paths):
        try:
            checkpoint = load_checkpoint(path, trusted)
        except UserError as error:
            raise UserError(f"sources: {error}") from error
        if checkpoint.digest in found:
            raise UserError(f"sources: {path} and {found[checkpoint.digest][0]} are the same file; leave one out")
        found[checkpoint.digest] = path, checkpoint
    return tuple(
        Source(name, checkpoint.network, {"digest": checkpoint.digest, "file": str(path), "run": _run_of(path)})
        for name, (path, checkpoint) in zip(_names([c for _, c in found.values()]), found.values(), strict=True)
    )


def _run_of(path: Path) -> str | None:
    """The run directory of a checkpoint; None where it lies in none."""
    directory = path.resolve().parent.parent
    return str(directory) if (directory / CONFIG).is_file() else None


def _names(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Names of the runs, with seeds where they are not enough, and numbers where these are not."""
    plain = [
        re.sub(r"\W+", "_", str(checkpoint.config.get("name") or "network")).strip("_") for checkpoint in checkpoints
    ]
    seeded = [
        f"{name}_seed{checkpoint.config.get('seed', 0)}" for name, checkpoint in zip(plain, checkpoints, strict=True)
    ]
    names = [name if plain.count(name) == 1 else full for name, full in zip(plain, seeded, strict=True)]
    taken: Counter[str] = Counter()
    unique = []
    for name in names:
        taken[name] += 1
        unique.append(name if taken[name] == 1 else f"{name}_{taken[name]}")
    return unique
