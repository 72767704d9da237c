"""Runs a Hydra application: a user's mistake ends with one line, a failed job does not stop the next."""

import argparse
import importlib
import os
import socket
import sys
from collections.abc import Callable, Sequence

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from symmetry_robustness.app.arguments import Parser
from symmetry_robustness.app.config import config_directory
from symmetry_robustness.app.schema import register_schemas
from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.exit_status import run_guarded

DETACH = "--detach"
_PLANNING = "hydra_plugins.symrob_sweeps."
# Places of a process among several, as torchrun and Slurm state them and Lightning reads them as it is imported.
_PLACES = (
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_NTASKS",
    "MASTER_PORT",
)

_RANKS = {"RANK": "WORLD_SIZE", "LOCAL_RANK": "WORLD_SIZE", "SLURM_PROCID": "SLURM_NTASKS"}


def run_hydra(
    app: str,
    job: Callable[[DictConfig], int],
    argv: Sequence[str],
    plan: Callable[[DictConfig], object] | None = None,
) -> int:
    """Compose the configuration, or each one of a sweep, and run `job` on it.

    Args:
        app: name of the root configuration, "train" or "evaluate".
        job: from composed configuration to exit status.
        argv: Hydra's overrides and flags.
        plan: from composed configuration to planned job; called instead of `job` if the launcher of a sweep is this
            project's, which runs the planned jobs afterwards.

    Returns:
        The exit status: 0, or that of the first job that failed here.

    Raises:
        UserError: a directory without a name, which would be the current directory, a value without a setting, or an
            environment that states an impossible place of this process among several.
    """
    for name in ("hydra.run.dir", "hydra.sweep.dir"):
        if f"{name}=" in argv:
            raise UserError(f"{name} is empty; name a directory, or leave it out")
    parser = Parser(f"symrob {app}", parents=[hydra_parser()], add_help=False)
    if plan:
        parser.add_argument(DETACH, action="store_true")  # never left to Hydra, see `app/train.py`
    parser.parse_args(argv)
    _check_places()
    for word in argv:
        if word.lstrip("+~").startswith("="):
            raise UserError(f"{word} names no setting; write SETTING=VALUE")
    register_schemas()
    sys.argv = [f"symrob-{app}", *argv]
    importlib.import_module("hydra.main").get_args_parser = hydra_parser  # type: ignore[attr-defined]
    statuses: list[int] = []

    @hydra.main(version_base="1.3", config_path=str(config_directory()), config_name=app)
    def task(config: DictConfig) -> object:
        if plan and is_sweep() and str(HydraConfig.get().launcher._target_).startswith(_PLANNING):
            return plan(config)  # the launcher reports mistakes
        # An exception would pass through Hydra, which adds lines of its own and ends the sweep.
        statuses.append(run_guarded(lambda: job(config)))
        if statuses[-1] >= 128:  # a signal ends the whole sweep
            sys.exit(statuses[-1])
        return None

    task()
    return next((status for status in statuses if status), 0)


def hydra_parser() -> argparse.ArgumentParser:
    """Hydra's own parser.

    Hydra 1.3 gives one option a help that is no text until it is printed, and Python 3.14 refuses such an option.
    """
    argparse.ArgumentParser._check_help = lambda *_: None  # type: ignore[attr-defined]
    try:
        parser = get_args_parser()
    finally:
        del argparse.ArgumentParser._check_help  # type: ignore[attr-defined]
    for action in parser._actions:
        if "--shell-completion" in action.option_strings:
            action.help = "Install or uninstall the completion of words in a shell"
    return parser


def _check_places() -> None:
    """Refuse an environment that states an impossible place of this process among several.

    Raises:
        UserError: names the variable.
    """
    for name in _PLACES:
        if not os.environ.get(name, "0").isdecimal():
            raise UserError(f"{name}={os.environ[name]} in the environment is no number; unset it")
    if int(os.environ.get("MASTER_PORT", "0")) >= 2**16:
        raise UserError(f"MASTER_PORT={os.environ['MASTER_PORT']} in the environment is no port; unset it")
    if int(os.environ.get("NODE_RANK", "0")) and not {"MASTER_ADDR", "RANK", "SLURM_PROCID"} & os.environ.keys():
        node = os.environ["NODE_RANK"]
        raise UserError(f"NODE_RANK={node} in the environment is of a job whose MASTER_ADDR is not set; unset it")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and (address := os.environ.get("MASTER_ADDR")):
        try:
            socket.getaddrinfo(address, None)
        except (OSError, UnicodeError):  # the other ranks would look for it for half an hour
            raise UserError(
                f"MASTER_ADDR={address} in the environment is no host that is known here; set that of rank 0"
            ) from None
    for name, total in _RANKS.items():
        rank, ranks = os.environ.get(name, "0"), os.environ.get(total, "1")
        if int(rank) >= max(int(ranks), 1):  # it would wait for the first one to write results
            raise UserError(f"{name}={rank} in the environment is no rank of {total}={ranks}; unset both")


def is_sweep() -> bool:
    """Whether the current configuration belongs to a sweep."""
    return not OmegaConf.is_missing(HydraConfig.get().job, "num")
