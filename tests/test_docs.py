"""The documentation speaks of what there is, and of all of it."""

import re
from pathlib import Path

import pytest

from symmetry_robustness.app.cli import usage
from symmetry_robustness.results.checks import EXPLANATIONS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "experiments").rglob("*.md"))]
CONF = ROOT / "conf"
OTHERS = {"hydra/launcher=basic", "hydra/launcher=site"}
PROTOCOLS = (ROOT / "docs" / "protocols.md").read_text()
GUIDES = [page for page in PAGES if "report" not in page.relative_to(ROOT).parts]
_CODE = re.compile(r"```.*?```|`[^`\n]+(?:\n[^`\n]+)?`", re.DOTALL)
_PATH = re.compile(r"`((?:\.?[a-z_]+/)+\w+\.(?:py|yaml|sh|md)|(?:[a-z_]+/){2,})`")
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_protocol_is_explained_and_no_other() -> None:
    names = {path.stem for path in (ROOT / "conf" / "robustness").glob("*.yaml")} - {"none"}
    sections = re.split(r"^### ", PROTOCOLS, flags=re.MULTILINE)[1:]
    explained = {section.split("\n", 1)[0]: section.split("\n", 1)[1].strip() for section in sections}
    assert names <= set(explained)
    assert all(len(explained[name].split()) >= 10 for name in names)
    assert {name for name in explained if re.fullmatch("[a-z_]+", name)} <= names


def test_every_check_is_explained_with_what_to_do_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)`\*? \|([^|]*)\|([^|]*)\|$", PROTOCOLS, re.MULTILINE)
    explained = {name: (asks, means) for name, asks, means in rows if name in EXPLANATIONS}
    assert set(explained) == set(EXPLANATIONS)
    assert all(len(asks.split()) >= 5 and len(means.split()) >= 5 for asks, means in explained.values())
    checks = PROTOCOLS[PROTOCOLS.index("## Soundness checks") : PROTOCOLS.index("### Limits of the checks")]
    assert set(re.findall(r"^\| `(\w+)`", checks, re.MULTILINE)) == set(EXPLANATIONS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text()):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        file = (page.parent / target) if target else page
        assert file.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(file), f"{page}: {target}#{anchor}"


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: str(page.relative_to(ROOT)))
def test_choices_commands_and_files_exist(page: Path) -> None:
    code, own = _CODE.findall(page.read_text()), page.name == "extending.md"
    groups = {folder.relative_to(CONF).as_posix() for folder in CONF.rglob("*") if folder.is_dir()}
    choice = rf"(?<![\w./@])({'|'.join(sorted(groups, key=len, reverse=True))})=([a-z]\w*(?:,[a-z]\w*)*)(?![\w.=*…])"
    for group, choices in [found for span in code for found in re.findall(choice, span)]:
        for name in choices.split(","):
            # Hydra has launchers of its own, and a reader makes files.
            exists = (CONF / group / f"{name}.yaml").exists() or f"{group}={name}" in OTHERS or own
            assert exists, f"{group}={name}"
    commands = {name for span in code for name in re.findall(r"\bsymrob ([a-z]+)", span)}
    assert commands <= set(re.findall(r"^  (\w+)  ", usage(), re.MULTILINE))
    targets = {name for span in code for name in re.findall(r"(?:^`?|&& )make ([a-z-]+)(?![/\w])", span, re.MULTILINE)}
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)) | {"experiments"}
    paths = [path for path in _PATH.findall(page.read_text()) if not path.startswith("my_conf")]
    bases = (ROOT, ROOT / "symmetry_robustness", CONF)
    assert [path for path in paths if not any((base / path).exists() for base in bases)] == []


def test_every_experiment_has_its_configuration_and_says_what_it_concludes() -> None:
    index = (ROOT / "experiments" / "README.md").read_text()
    folders = {path.parent.name: path.read_text() for path in (ROOT / "experiments").glob("*/README.md")}
    assert set(folders) == {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")} - {
        "none",
        "demo",
        "search_robust",
    }
    for name, text in folders.items():
        assert all(part in text for part in ("**Question.**", "**Command.**", "## Results", "## Conclusion")), name
        assert f"make experiments/{name}" in text
        (row,) = [line for line in index.splitlines() if line.startswith(f"| [{name}](")]
        assert ("not run yet" in row) == ("Not run yet." in text), name
