"""The nodes, processes and GPUs that a job requests from a cluster, derived from its Trainer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from symmetry_robustness.errors import UserError
from symmetry_robustness.runs.settings import device_count


class Resources(NamedTuple):
    """Nodes, processes per node, and GPUs per node: one per process or none."""

    nodes: int
    tasks_per_node: int
    gpus_per_node: int


def requested_resources(trainer: Mapping[str, Any], job: str, gpus_per_node: int | None) -> Resources:
    """Derive the resources of a job: srun starts one process for each device of its Trainer on each node.

    Args:
        trainer: settings of the Trainer.
        job: name of the job, for error messages.
        gpus_per_node: their number where the Trainer takes all devices there are, or may take CPUs.

    Raises:
        UserError: `gpus_per_node` is missing, or contradicts the Trainer, which would wait for other processes.
    """
    accelerator, devices = str(trainer.get("accelerator", "auto")), trainer.get("devices", "auto")
    on_gpus = accelerator in ("gpu", "cuda") or (accelerator == "auto" and bool(gpus_per_node))
    count, setting = device_count(devices), f"hydra.launcher.executor.gpus_per_node={gpus_per_node}"
    if count is None and on_gpus and not gpus_per_node:
        raise UserError(
            f"trainer.devices={devices} in {job} does not say how many GPUs to request; "
            "set trainer.devices, or hydra.launcher.executor.gpus_per_node"
        )
    if gpus_per_node and not on_gpus:
        raise UserError(
            f"{setting}, but trainer.accelerator={accelerator} in {job} uses none; leave it out, or take trainer=slurm"
        )
    count = count or (on_gpus and gpus_per_node) or 1  # 1 is Lightning's own choice on CPUs
    wanted = Resources(int(trainer.get("num_nodes", 1)), count, count if on_gpus else 0)
    if min(wanted[:2]) < 1:
        raise UserError(f"trainer.num_nodes={wanted.nodes} and trainer.devices={count} in {job} must be at least 1")
    if gpus_per_node is not None and gpus_per_node != wanted.gpus_per_node:
        raise UserError(f"{setting}, but trainer.devices={count} in {job}; leave it out, or set trainer.devices")
    return wanted
