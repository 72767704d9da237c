"""Hook of mkdocs: pages keep their place in the repository, and the reference is generated from the package."""

import ast
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CHANGELOG.md", "docs/**/*.md", "experiments/**/*.md", "benchmarks/results/**/*.md")
# Packages of the reference. Where `__all__` says what is public, the page shows that, else each module.
PACKAGES = {
    "": "load_config, build_network, load_network, load_weights, wrap",
    "attacks": "threat models and attacks",
    "robustness": "evaluator, protocol and measures",
    "results": "reports, soundness checks, names and files",
    "models": "stems, networks, building and loading",
    "layers": "equivariant layers",
    "data": "data modules, loaders and test transforms",
    "training": "the LightningModule, objectives and the callback",
    "reporting": "from run directories to a data frame",
}
_LINK = re.compile(r"(!?\[[^\]]*\])\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take pages from the whole repository, with every file that they link to, and generate the reference."""
    pages = {path.relative_to(ROOT).as_posix() for pattern in PAGES for path in ROOT.glob(pattern)}
    linked = {target for page in pages for target in _targets(page) if (ROOT / target).is_file()}
    found = [_file(path, config) for path in sorted(pages | linked)]
    found += [File.generated(config, path, content=text) for path, text in {**_reference(), **_notebooks()}.items()]
    theme = [file for file in files if file.src_dir != config.docs_dir]
    result = Files([*theme, *found])
    config.nav = _expand(config.nav, {file.src_uri for file in found})
    return result


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links to folders into links to READMEs, or plain text, and links to notebooks into links to pages."""

    def replace(match: re.Match[str]) -> str:
        text, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        if target.endswith(".ipynb") and ":" not in target:
            return f"{text}({target.removesuffix('.ipynb')}.md{anchor})"
        folder = ROOT / PurePosixPath(page.file.src_uri).parent / target
        if ":" in target or not folder.is_dir():
            return match.group(0)
        return f"{text}({target.rstrip('/')}/README.md{anchor})" if (folder / "README.md").exists() else text[1:-1]

    return _LINK.sub(replace, markdown)


def _file(path: str, config: MkDocsConfig) -> File:
    return File.generated(config, path, abs_src_path=str(ROOT / path))


def _targets(page: str) -> list[str]:
    """Files of the repository that a page links to, relative to its root."""
    folder = (ROOT / page).parent
    targets = [match[1] for match in _LINK.findall((ROOT / page).read_text()) if ":" not in match[1]]
    resolved = [(folder / target).resolve() for target in targets]
    return [path.relative_to(ROOT).as_posix() for path in resolved if path.is_relative_to(ROOT)]


def _expand(entry: Any, pages: set[str]) -> Any:
    """Replace `folder/` in the navigation by the folder's pages, its index first."""
    if isinstance(entry, dict):
        return {title: _expand(part, pages) for title, part in entry.items()}
    if isinstance(entry, list):
        return [_expand(part, pages) for part in entry]
    if not entry.endswith("/"):
        return entry
    below = [PurePosixPath(page) for page in pages if page.startswith(entry)]
    found = [page for page in below if page.match(f"{entry}*.md") or page.match(f"{entry}*/README.md")]
    first = (PurePosixPath(entry) / "index.md", PurePosixPath(entry) / "README.md")
    return [str(page) for page in sorted(found, key=lambda page: (page not in first, page))]


def _notebooks() -> dict[str, str]:
    """A page for each notebook: its texts and its code, without a package that would run it."""
    pages = {}
    for path in sorted(ROOT.glob("docs/*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        parts = ["".join(cell["source"]) for cell in cells]
        code = [cell["cell_type"] == "code" for cell in cells]
        texts = [f"```python\n{part}\n```" if is_code else part for part, is_code in zip(parts, code, strict=True)]
        name = path.relative_to(ROOT).with_suffix(".md").as_posix()
        pages[name] = "\n\n".join([*texts, f"This page is the notebook `docs/{path.name}` of the repository."])
    return pages


def _reference() -> dict[str, str]:
    """The pages of the reference by their path."""
    index = "# Reference\n\nPublic names, from their docstrings.\n\n| package | holds |\n|:--|:--|\n"
    pages = {}
    for package, holds in PACKAGES.items():
        name, file = f"symmetry_robustness.{package}".rstrip("."), package or "symmetry_robustness"
        index += f"| [`{name}`]({file}.md) | {holds} |\n"
        pages[f"reference/{file}.md"] = _package_page(name, ROOT / name.replace(".", "/"))
    return {"reference/index.md": index, **pages}


def _package_page(name: str, folder: Path) -> str:
    tree = ast.parse((folder / "__init__.py").read_text())
    names = _public(tree) or [path.stem for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
    return f"# {name}\n\n{ast.get_docstring(tree)}\n\n" + "\n\n".join(f"::: {name}.{part}" for part in names) + "\n"


def _public(tree: ast.Module) -> list[str]:
    """The names in a module's `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return []
