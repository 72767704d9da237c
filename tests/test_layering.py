"""The imports point one way, as docs/architecture.md says."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "symmetry_robustness"
# Modules that every part may import.
LEAVES = {"corruption_names", "errors", "features", "files", "orbits", "precision", "resampling", "rng", "settings"}
# The other parts that each part may import.
ALLOWED = {
    "layers": set(),
    "models": {"layers"},
    "attacks": set(),
    "data": set(),
    "results": set(),
    "reporting": {"results"},
    "engine": {"attacks"},
    "bounds": {"attacks"},
    "robustness": {"attacks", "engine", "bounds", "results"},
    "training": {"layers", "models", "attacks", "robustness", "results", "reporting"},
    "runs": {"layers", "models", "data", "attacks", "robustness", "results", "reporting", "training"},
    "sweeps": {"runs"},
    "app": {
        "layers",
        "models",
        "data",
        "attacks",
        "robustness",
        "results",
        "reporting",
        "training",
        "runs",
        "sweeps",
    },
}
# Third-party packages that only some parts may import.
CONFINED = {
    "pytorch_lightning": {"data", "training", "runs", "app"},
    "hydra": {"app", "runs", "sweeps", "models"},
    "escnn": {"layers"},
    "torchattacks": {"attacks"},
    "matplotlib": {"reporting", "app"},
    "plotly": {"reporting"},
    "wandb": {"training"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_point_one_way(part: str) -> None:
    files = list((PACKAGE / part).rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            words = name.split(".")
            if words[0] == "symmetry_robustness":
                assert words[1] in ALLOWED[part] | LEAVES | {part}, f"{path} imports {name}"
            elif words[0] in CONFINED:
                assert part in CONFINED[words[0]], f"{path} imports {name}"


def test_escnn_has_one_importer() -> None:
    importers = {p.name for p in PACKAGE.rglob("*.py") if any(n.split(".")[0] == "escnn" for n in imported(p))}
    assert importers == {"basis.py"}


def test_every_part_is_covered() -> None:
    assert {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"} == set(ALLOWED)


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def test_no_modules_import_each_other_in_a_circle_not_even_for_types() -> None:
    known = modules()
    edges = {
        module: {name if name in known else name.rpartition(".")[0] for name in imported(path)} & known.keys()
        for module, path in known.items()
    }
    free: set[str] = set()
    while ready := {module for module, needed in edges.items() if module not in free and needed <= free}:
        free |= ready
    circles = {module: sorted(edges[module] - free) for module in sorted(edges.keys() - free)}
    assert circles == {}
