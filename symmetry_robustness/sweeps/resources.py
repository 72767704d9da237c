"""What a job needs of a cluster; the settings of its Trainer decide it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from symmetry_robustness.errors import UserError

_SETTING = "hydra.launcher.executor"


class Allocation(NamedTuple):
    """Nodes, processes on each of them, and GPUs on each of them, one for each process or none."""

    nodes: int
    tasks_per_node: int
    gpus_per_node: int


def allocation(
    trainer: Mapping[str, Any],
    job: str,
    nodes: int | None = None,
    tasks_per_node: int | None = None,
    gpus_per_node: int | None = None,
) -> Allocation:
    """What a Trainer needs: srun starts one process for each of its devices on each of its nodes.

    Args:
        trainer: settings of the Trainer.
        job: the job's name, for error messages.
        nodes: as configured for Slurm; None for the Trainer's own number, as in the others.
        tasks_per_node: likewise.
        gpus_per_node: likewise; where the Trainer takes all devices there are, it says how many those are.

    Raises:
        UserError: what is configured for Slurm is not what the Trainer waits for.
    """
    accelerator, devices = str(trainer.get("accelerator", "auto")), _number(trainer.get("devices", "auto"))
    on_gpus = accelerator in ("gpu", "cuda") or (accelerator == "auto" and bool(gpus_per_node))
    if devices is None and on_gpus:
        if not gpus_per_node:
            raise UserError(
                f"trainer.devices={trainer.get('devices', 'auto')} in {job} leaves open how many GPUs to ask for; "
                f"set trainer.devices, or {_SETTING}.gpus_per_node"
            )
        devices = gpus_per_node
    devices = devices or 1  # Lightning's own choice on CPUs
    wanted = Allocation(int(trainer.get("num_nodes", 1)), devices, devices if on_gpus else 0)
    if min(wanted[:2]) < 1:
        raise UserError(
            f"trainer.num_nodes={wanted.nodes} and trainer.devices={devices} in {job}: at least one of each"
        )
    if gpus_per_node and not on_gpus:
        raise UserError(
            f"{_SETTING}.gpus_per_node={gpus_per_node}, but trainer.accelerator={accelerator} in {job} uses none; "
            "leave it out, or choose trainer=slurm"
        )
    given = Allocation._make((nodes, tasks_per_node, gpus_per_node))
    for name, trainers in (("nodes", "num_nodes"), ("tasks_per_node", "devices"), ("gpus_per_node", "devices")):
        value, needed = getattr(given, name), getattr(wanted, name)
        if value is not None and value != needed:
            raise UserError(
                f"{_SETTING}.{name}={value}, but trainer.{trainers}={needed} in {job}; "
                f"leave {name} out, or set trainer.{trainers}={value}"
            )
    return wanted


def _number(devices: Any) -> int | None:
    """How many devices Lightning's notation names; None for all there are."""
    if isinstance(devices, str) and devices not in ("auto", "-1"):
        if "," not in devices and not devices.isdecimal():
            raise UserError(f"trainer.devices={devices} is no number of devices; set a number, or -1 for all")
        return len([part for part in devices.split(",") if part]) if "," in devices else int(devices)
    if isinstance(devices, int):
        return None if devices == -1 else devices
    return None if isinstance(devices, str) else len(devices)
