"""The nodes, processes and GPUs that a job requests from a cluster, derived from its Trainer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.settings import device_count

_SETTING = "hydra.launcher.executor"


class Resources(NamedTuple):
    """Nodes, processes per node, and GPUs per node: one per process or none."""

    nodes: int
    tasks_per_node: int
    gpus_per_node: int


def requested_resources(trainer: Mapping[str, Any], job: str, **configured: int | None) -> Resources:
    """Derive the resources of a job: srun starts one process for each device of its Trainer on each node.

    Args:
        trainer: settings of the Trainer.
        job: name of the job, for error messages.
        configured: any fields of `Resources` as configured for Slurm, None for the Trainer's own. Where the Trainer
            takes all devices there are, `gpus_per_node` states their number.

    Raises:
        UserError: a configured field contradicts the Trainer, which would wait for other processes.
    """
    accelerator, devices = str(trainer.get("accelerator", "auto")), device_count(trainer.get("devices", "auto"))
    gpus = configured.get("gpus_per_node")
    on_gpus = accelerator in ("gpu", "cuda") or (accelerator == "auto" and bool(gpus))
    if devices is None and on_gpus and not gpus:
        raise UserError(
            f"trainer.devices={trainer.get('devices', 'auto')} in {job} does not say how many GPUs to request; "
            f"set trainer.devices, or {_SETTING}.gpus_per_node"
        )
    if gpus and not on_gpus:
        raise UserError(
            f"{_SETTING}.gpus_per_node={gpus}, but trainer.accelerator={accelerator} in {job} uses none; "
            "leave it out, or choose trainer=slurm"
        )
    devices = devices or (on_gpus and gpus) or 1  # 1 is Lightning's own choice on CPUs
    wanted = Resources(int(trainer.get("num_nodes", 1)), devices, devices if on_gpus else 0)
    if min(wanted[:2]) < 1:
        raise UserError(f"trainer.num_nodes={wanted.nodes} and trainer.devices={devices} in {job} must be at least 1")
    for name, own in (("nodes", "num_nodes"), ("tasks_per_node", "devices"), ("gpus_per_node", "devices")):
        value, needed = configured.get(name), getattr(wanted, name)
        if value is not None and value != needed:
            raise UserError(
                f"{_SETTING}.{name}={value}, but trainer.{own}={needed} in {job}; "
                f"leave {name} out, or set trainer.{own}={value}"
            )
    return wanted
