"""`python -m benchmarks`: run the benchmarks, print ratios, write a table with hardware and versions.

Machines are shared and noisy: ratios of things measured in one run count, not seconds.
"""

import argparse
import importlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from symmetry_robustness.reporting.tables import markdown
from symmetry_robustness.sweeps.run_directory import code_version, environment

PARTS = ("training", "symmetry", "sweep", "clever", "ensemble")
WITHOUT_OVERRIDES = ("training", "symmetry")


def formatted(row: dict[str, float | str]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else f"{value:.4g}" for name, value in row.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"any of {', '.join(PARTS)}; all by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--checkpoint", help="network to attack; a standard one is trained on the embedded data otherwise"
    )
    parser.add_argument("--override", action="append", default=[], help="of the configuration, e.g. data=cifar10")
    parser.add_argument(
        "--output", type=Path, help="folder for results.md and results.json; nothing is written otherwise"
    )
    parser.add_argument("--rows", action="store_true", help=argparse.SUPPRESS)  # one part, as JSON, for the parent
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {sorted(unknown)[0]!r}; choose from {', '.join(PARTS)}")
    if arguments.rows:
        module = importlib.import_module(f"benchmarks.{arguments.parts[0]}")
        rest = {} if arguments.parts[0] in WITHOUT_OVERRIDES else {"overrides": tuple(arguments.override)}
        if arguments.checkpoint and rest:
            rest["checkpoint"] = arguments.checkpoint
        print(json.dumps(module.run(arguments.device, **rest)))
        return 0
    results = {part: measure(part, sys.argv[1:]) for part in arguments.parts}
    if arguments.output:
        write(results, arguments.output, arguments.device)
    return 0


def measure(part: str, words: list[str]) -> list[dict[str, float | str]]:
    """Run one part in a process of its own, so that none inherits another's caches or memory; print its rows."""
    options = [word for word in words if word not in PARTS]
    command = [sys.executable, "-m", "benchmarks", part, "--rows", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rows: list[dict[str, float | str]] = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{part}\n{markdown([formatted(row) for row in rows])}", flush=True)
    return rows


def write(results: dict[str, list[dict[str, float | str]]], output: Path, device: str) -> None:
    """results.json and results.md, with where and on what they were measured."""
    output.mkdir(parents=True, exist_ok=True)
    about = {"measured": datetime.now(UTC).isoformat(timespec="minutes"), "device": device, **code_version()}
    about |= environment()
    (output / "results.json").write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")
    tables = [f"## {part}\n\n{markdown([formatted(row) for row in rows])}" for part, rows in results.items()]
    hardware = about["hardware"]
    where = ", ".join(
        [*hardware["devices"]] if device == "cuda" else [hardware["processor"], f"{hardware['cores']} cores"]
    )
    versions = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    head = f"Measured {about['measured']} on {device} ({where}); commit {about['commit']}; {versions}.\n"
    (output / "results.md").write_text("\n".join(["# Benchmark", head, *tables]))


if __name__ == "__main__":
    sys.exit(main())
