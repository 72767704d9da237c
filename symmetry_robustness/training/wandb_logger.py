"""Weights & Biases, without letting it stop or slow a run."""

import contextlib
import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast, final

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from symmetry_robustness.errors import UserError, one_line

log = logging.getLogger(__name__)

_MODES: Final = ("online", "offline")
# Environment of W&B; the user's own wins.
_DEFAULT_ENV: Final = {
    "WANDB_SILENT": "true",  # this module logs what a user should know, in one line
    # Its own error reports and telemetry would make the process wait at its end for a server that hangs.
    "WANDB_ERROR_REPORTING": "false",
    # Seconds for the server to start a run, and to receive the rest at the end; W&B's defaults are 90 and no limit. A
    # job that Slurm ends has 30 by default (KillWait) before it is killed.
    "WANDB_INIT_TIMEOUT": "30",
    "WANDB_FINISH_TIMEOUT": "20",
    "WANDB_FINISH_TIMEOUT_RAISES": "true",
}


@final
class WandbTracker(Logger):
    """Sends metrics, tables and pictures to a W&B run; the first failure ends tracking, not the training.

    Args:
        run: a started run; None if none could be started, and on other ranks.
    """

    name = version = ""  # which Lightning would show behind the progress bar

    def __init__(self, run: Any) -> None:
        super().__init__()
        self._run = run

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run received the whole configuration when it started."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add metrics of a step. W&B's own step is left alone: it only counts, and drops what comes out of order."""
        self._attempt(lambda run: run.log({**metrics, "trainer/global_step": step}))

    @rank_zero_only
    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int) -> None:
        """Show a table."""
        import wandb

        self._attempt(lambda run: run.log({key: wandb.Table(columns=columns, data=data), "trainer/global_step": step}))

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[Any], step: int) -> None:
        """Show pictures, given as arrays of pixels."""
        import wandb

        self._attempt(lambda run: run.log({key: [wandb.Image(image) for image in images], "trainer/global_step": step}))

    def _attempt(self, action: Callable[[Any], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # a training of days is worth more than its curves
            log.warning("W&B: no longer tracked (%s); metrics.csv has all metrics", one_line(error))
            self._run = None


def wandb_logger(*, directory: Path, run_id: str, mode: str, **settings: Any) -> WandbTracker:
    """One W&B run for one job, started on global rank 0 alone.

    Args:
        directory: the run directory; W&B's files go to its folder wandb/.
        run_id: identity of the run, by which a resumed job finds it again.
        mode: "online" or "offline". Without a key, or an answer from the server, an online run starts offline;
            `wandb sync` uploads it later. WANDB_MODE overrides this setting.
        settings: of `wandb.init`: project, entity (user or team; None is the key's own), name, group, job_type, tags,
            and config, the resolved configuration, nested.

    Raises:
        UserError: an unknown mode, or a name that W&B does not take.
    """
    return WandbTracker(_start(resolve_mode(mode), dir=str(directory), id=run_id, resume="allow", **settings))


def validate(mode: str, project: str, entity: str | None) -> None:
    """Refuse settings with which no run could be started.

    Raises:
        UserError: an unknown mode, or a name that W&B does not take.
    """
    resolve_mode(mode)
    wandb = _wandb()
    try:
        wandb.Settings(project=project, entity=entity)
    except wandb.errors.UsageError as error:
        raise UserError(f"logger.wandb.project: {one_line(error)}") from error


def resolve_mode(mode: str) -> str:
    """The mode of the environment (WANDB_MODE), else of the settings.

    Raises:
        UserError: an unknown mode.
    """
    if mode not in _MODES:
        raise UserError(f"logger.wandb.mode must be one of {', '.join(_MODES)}, got {mode!r}")
    chosen = os.environ.get("WANDB_MODE") or mode
    if chosen not in (*_MODES, "disabled"):
        raise UserError(f"the environment sets WANDB_MODE={chosen}; make it online, offline or disabled, or unset it")
    return chosen


@rank_zero_only
def _start(mode: str, **arguments: Any) -> Any:
    """The run, online if wanted and possible; None if not even W&B's files can be written."""
    wandb = _wandb()
    # Seconds of metrics lost at most if W&B's service ends; Slurm's signals reach it like every process.
    service = wandb.Settings(x_transaction_log_flush_interval=1.0)
    reason = why_offline() if mode == "online" else None
    if reason:
        mode = "offline"
        log.warning("W&B: offline, %s", reason)
    for chosen in dict.fromkeys((mode, "offline")):
        try:
            run = wandb.init(mode=cast(Any, chosen), settings=service, **arguments)
            run.define_metric("trainer/global_step")
            run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        except wandb.errors.UsageError as error:
            raise UserError(f"logger.wandb: {one_line(error)}") from error
        except Exception as error:
            what = "offline, could not start online" if chosen == "online" else "not tracked"
            log.warning("W&B: %s (%s)", what, one_line(error))
            _tear_down()  # the service would hold on to the run's id
        else:
            return run
    return None


@rank_zero_only
def finish(exit_code: int, *, resumable: bool = False) -> None:
    """End the job's run, if there is one, and log how to upload an offline run.

    Args:
        exit_code: of the job.
        resumable: whether the job was interrupted and can be resumed.
    """
    wandb = sys.modules.get("wandb")
    run = wandb.run if wandb else None
    if run is None:
        return
    files, offline = Path(run.settings.sync_dir), run.settings.mode == "offline"
    upload = f"upload with: wandb sync {files.parent if offline else f'--include-online {files}'}"
    try:
        if resumable:
            run.mark_preempting()
        run.finish(exit_code=exit_code)
    except Exception as error:
        log.warning("W&B: incomplete (%s); %s", one_line(error), upload)
    else:
        if offline:
            log.info("W&B: offline run; %s", upload)
    _tear_down()


def why_offline(patience: float = 10.0) -> str | None:
    """Why an online run cannot start (no key, or no answer from the server in time), else None.

    Args:
        patience: seconds for the server's first answer.
    """
    wandb = _wandb()
    if not wandb.login(prompt=False, verify=False):
        return "no API key (wandb login)"
    return unreachable(wandb.setup().settings.base_url, patience)


def unreachable(url: str, patience: float) -> str | None:
    """Why a web server, or the proxy before it, does not answer in time; None if it answers anything."""
    try:
        urllib.request.urlopen(url, timeout=patience).close()
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        return f"{url} does not answer ({one_line(error)})"
    return None


def _wandb() -> Any:
    for name, value in _DEFAULT_ENV.items():
        os.environ.setdefault(name, value)
    import wandb

    return wandb


def _tear_down() -> None:
    """End W&B's service now; at the end of the process, a dead one would print a traceback."""
    import wandb

    with contextlib.suppress(Exception, SystemExit):  # it raises the service's exit status
        wandb.teardown()
