"""`symrob evaluate checkpoint=… robustness=…`: the robustness of a checkpoint, or of a network of the user's.

Torch is imported after Hydra has composed the configuration, so that a misspelled name or a missing file is refused
fast.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from symmetry_robustness.app.config import check_classes, open_network, resolve_config
from symmetry_robustness.app.hydra_main import run_hydra
from symmetry_robustness.files import require_file
from symmetry_robustness.runs.exit_status import run_guarded
from symmetry_robustness.runs.process import keep_freed_memory


def main(argv: Sequence[str] | None = None) -> int:
    """Run one evaluation.

    Args:
        argv: Hydra's overrides and flags.
    """
    keep_freed_memory()
    words = list(sys.argv[1:] if argv is None else argv)

    def job(config: DictConfig) -> int:
        config = resolve_config(config)
        for kind in ("checkpoint", "weights"):
            if config[kind]:
                require_file(kind, Path(config[kind]))
        check_classes(config)
        from symmetry_robustness.app.evaluation import evaluate

        evaluate(config, ["symrob", "evaluate", *words])
        return 0

    return run_hydra("evaluate", job, open_network(words))


if __name__ == "__main__":
    sys.exit(run_guarded(main))
