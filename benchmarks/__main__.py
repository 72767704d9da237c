"""`python -m benchmarks`: run the benchmarks, print ratios, write a table with hardware and versions.

Machines are shared and noisy: ratios of things measured in one run count, not seconds. A part whose subject is unfit,
such as a network that classifies by chance, fails with the reason; the others are measured.
"""

import argparse
import importlib
import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.subject import Unfit
from symmetry_robustness.reporting.table_formats import Cell, Table, markdown
from symmetry_robustness.runs.provenance import code_version, environment

ATTACKING = ("sweep", "clever", "ensemble", "autoattack", "cost")  # these attack one network, which may be chosen
PARTS = ("training", "objectives", "symmetry", "callback", "sweep_files", "report", *ATTACKING)


def table(title: str, rows: list[dict[str, float | str]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    values = [[row.get(name, "") for name in names] for row in rows]
    texts = [[Cell(value if isinstance(value, str) else f"{value:.4g}") for value in line] for line in values]
    return markdown(Table(title, names, texts))


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
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {sorted(unknown)[0]!r}; choose from {', '.join(PARTS)}")
    options = {"checkpoint": arguments.checkpoint, "overrides": tuple(arguments.override)}
    results, status = {}, 0
    for part in arguments.parts:
        try:
            rows = importlib.import_module(f"benchmarks.{part}").run(
                arguments.device, **(options if part in ATTACKING else {})
            )
        except Unfit as reason:
            rows, status = [{"failed": str(reason)}], 1
        print(f"\n{table(part, rows)}", flush=True)
        results[part] = rows
    if arguments.output:
        write(results, arguments.output, arguments.device, sys.argv[1:])
    return status


def write(results: dict[str, list[dict[str, float | str]]], output: Path, device: str, words: list[str]) -> None:
    """results.json and results.md, with where, on what and by which command line they were measured."""
    output.mkdir(parents=True, exist_ok=True)
    about = {"measured": datetime.now(UTC).isoformat(timespec="minutes"), "device": device, **code_version()}
    about["command"] = shlex.join(["python", "-m", "benchmarks", *words])
    about |= environment()
    (output / "results.json").write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")
    tables = [table(part, rows) for part, rows in results.items()]
    hardware = about["hardware"]
    where = ", ".join(
        [*hardware["devices"]] if device == "cuda" else [hardware["processor"], f"{hardware['cores']} cores"]
    )
    versions = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    head = f"Measured {about['measured']} on {device} ({where}); commit {about['commit']}; {versions}.\n"
    (output / "results.md").write_text("\n".join(["# Benchmark", head, f"`{about['command']}`\n", *tables]))


if __name__ == "__main__":
    sys.exit(main())
