"""Weights & Biases, without letting it stop a run."""

import logging
import os
import socket
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from symmetry_robustness.errors import UserError

log = logging.getLogger(__name__)
_PATIENCE_S = 10.0
_MODES = ("auto", "online", "offline")


def wandb_logger(
    *,
    directory: Path,
    project: str,
    entity: str | None,
    mode: str,
    run_id: str,
    name: str,
    group: str,
    job_type: str,
    tags: list[str],
    config: dict[str, Any],
) -> WandbLogger:
    """One W&B run for one job, started on global rank 0 alone.

    Args:
        directory: the run directory; offline files go to its folder wandb/.
        project: project of the run.
        entity: user or team; None is the key's own.
        mode: "online", "offline", or "auto": online if a key is found and the server answers. A run that cannot be
            started online goes on offline; `wandb sync` uploads it later. WANDB_MODE wins over this setting.
        run_id: identity of the run, kept by the caller so that a resumed job finds its run.
        name: display name.
        group: what belongs together, e.g. a sweep.
        job_type: kind of job, e.g. the model.
        tags: labels.
        config: the resolved configuration, nested.

    Raises:
        UserError: an unknown mode.
    """
    if mode not in _MODES:
        raise UserError(f"logger.wandb.mode must be one of {', '.join(_MODES)}, got {mode!r}")
    told = os.environ.get("WANDB_MODE") or mode
    if told not in (*_MODES, "disabled"):
        raise UserError(f"the environment sets WANDB_MODE={told}; make it online, offline or disabled, or unset it")
    run = _start(
        mode=told,
        arguments={
            "dir": str(directory),
            "project": project,
            "entity": entity,
            "id": run_id,
            "name": name,
            "group": group,
            "job_type": job_type,
            "tags": tags,
            "config": config,
            "resume": "allow",
        },
    )
    return WandbLogger(save_dir=directory, experiment=run, log_model=False)


@rank_zero_only
def _start(mode: str, arguments: dict[str, Any]) -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")  # what a user should know is logged here, in one line
    import wandb

    settings = wandb.Settings(init_timeout=3 * _PATIENCE_S)
    reason = _why_offline() if mode == "auto" else None
    if mode == "auto":
        mode = "offline" if reason else "online"
    if reason:
        log.info(
            "W&B: offline, %s; upload later with: wandb sync %s",
            reason,
            Path(arguments["dir"], "wandb", "offline-run-*"),
        )
    try:
        run = wandb.init(mode=cast(Any, mode), settings=settings, **arguments)
    except wandb.errors.UsageError as error:
        raise UserError(f"logger.wandb: {' '.join(str(error).split())}") from error
    except (wandb.errors.Error, OSError, TimeoutError) as error:
        log.warning("W&B: offline, could not start online (%s)", " ".join(str(error).split()))
        wandb.teardown()  # the service would hold on to the run's id
        run = wandb.init(mode="offline", settings=settings, **(arguments | {"resume": None}))
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run


@rank_zero_only
def finish(exit_code: int) -> None:
    """End the job's run, if there is one, with the job's true exit status."""
    import wandb

    if wandb.run is not None:
        wandb.finish(exit_code=exit_code)


def _why_offline() -> str | None:
    """Why an online run cannot start, or None: no key, or no answer from the server."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        return "no API key (wandb login)"
    url = urlsplit(wandb.setup().settings.base_url)
    address = (url.hostname or "", url.port or (443 if url.scheme == "https" else 80))
    try:
        socket.create_connection(address, timeout=_PATIENCE_S).close()
    except OSError as error:
        return f"{url.hostname} does not answer ({error})"
    return None
