"""The tables say what the rows say, in every form."""

import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from symmetry_robustness.corruption_names import BENCHMARK
from symmetry_robustness.reporting.aggregate import summarize
from symmetry_robustness.reporting.frame import frame_of
from symmetry_robustness.reporting.load import find_runs
from symmetry_robustness.reporting.table_formats import Cell, Table, TableSet, escaped, latex, markdown, terminal
from symmetry_robustness.reporting.tables import table_sets
from symmetry_robustness.results.checks import Check
from symmetry_robustness.runs.terminal import SIMILAR

from .made import CIFAR, EPSILONS, draw_broken_at, make_report, make_run

WIDE = Table(
    "a & b",
    ["network", *"abcdefg"],
    [[Cell("one_two"), *[Cell("50 %", best=True)] * 7], [Cell("x|y"), *[Cell("ε < 1")] * 7]],
    ["100 %"],
)


def sheets_of(directory: Path) -> dict[str, TableSet]:
    runs, problems = find_runs([directory])
    assert problems == []
    return {sheet.name: sheet for sheet in table_sets(summarize(frame_of(runs), runs))}


def test_markdown_has_a_cell_for_every_column() -> None:
    text = markdown(WIDE)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {9}
    assert "| **50 %** |" in text
    assert r"x\|y" in text
    assert text.startswith("### a & b\n")


def test_latex_is_cut_to_the_width_of_a_page_and_escaped() -> None:
    wide = replace(
        WIDE,
        columns=["network", *(f"a column whose name says more than most others do, {name}" for name in "abc"), *"defg"],
    )
    text = latex(wide)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert r"\caption{a \& b}" in text
    assert r"\caption{a \& b (continued)}" in text
    assert r"one\_two & \textbf{50 \%}" in text
    assert r"$\varepsilon$ \textless{} 1" in text
    for piece, columns in zip(text.split(r"\midrule")[1:], (3, 6), strict=True):
        rows = [line for line in piece.split(r"\bottomrule")[0].splitlines() if line]
        assert [len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows] == [columns] * 2
    assert r"\begin{tabular}{lrr}" in text
    assert r"\begin{tabular}{lrrrrr}" in text
    assert latex(WIDE).count(r"\begin{table}") == 1


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="needs pdflatex: apt-get install texlive-latex-recommended"
)
def test_latex_compiles_and_fits_the_page(made: dict[str, TableSet], tmp_path: Path) -> None:
    texts = [Table("texts", ["name", "text"], [[Cell("\\&%$#_{}~^<>εℓ∞±×≥−–…⚠‖·"), Cell("long " * 40)]]), WIDE]
    for sheet in made.values():
        sheet.write(tmp_path)
    kept = Path(__file__).parents[2].glob("experiments/*/report/tables/*.tex")
    bodies = [*map(latex, texts), *(path.read_text() for path in sorted([*tmp_path.glob("*.tex"), *kept]))]
    packages = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "all.tex").write_text("\n".join([packages, *bodies, r"\end{document}"]))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert not re.search("Overfull|Float too large", done.stdout), done.stdout


@pytest.mark.parametrize("character", list(r"\&%$#_{}~^"))
def test_every_special_character_is_escaped(character: str) -> None:
    assert escaped(f"a{character}b") not in (f"a{character}b", "ab")
    assert escaped(f"a{character}b").startswith("a\\")


def test_a_terminal_shows_the_first_rows_and_says_how_many_there_are() -> None:
    first, second = terminal(WIDE, longest=1)
    assert (first.row_count, len(first.columns), len(second.columns)) == (1, 6, 3)
    assert first.caption == "1 more rows in the files"
    assert terminal(WIDE)[0].caption is None


def test_a_frame_stands_straight_where_characters_are_replaced_by_several(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii", errors=SIMILAR)
    monkeypatch.setattr("sys.stdout", stream)
    rows = [[Cell("a ± b ± c"), Cell("1 ± 2", best=True)], [Cell("x … y"), Cell("[12.5, 3]")]]
    Console(file=stream, width=80).print(*terminal(Table("a ± b", ["±", "[ε] %"], rows)))
    stream.flush()
    title, *lines = written.getvalue().decode("ascii").splitlines()
    assert title.strip() == "a +- b"
    assert len({len(line) for line in lines}) == 1
    assert "a +- b +- c" in lines[3]
    assert "[12.5, 3]" in lines[4]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TableSet]:
    """Two networks, three seeds each; the weak one's checks warned."""
    directory = tmp_path_factory.mktemp("runs")
    costs = {"flops": 2_000_000, "training_seconds": 120.5, "images_per_second": 900.0, "epochs": 200}
    for number, (name, strength) in enumerate({"strong": 9.0, "weak": 0.5}.items()):
        for seed in range(3):
            report = make_report(
                draw_broken_at(400, 10 * number + seed, strength),
                clever=np.arange(8) / 8,
                measures={"removal": {"value": np.arange(10.0), "indices": np.arange(10)}},
                checks=(Check("other_loss", "warned" if name == "weak" else "passed", ""),),
            )
            make_run(directory / f"{name}{seed}", report, name=name, seed=seed, summary=costs)
    return sheets_of(directory)


def test_there_is_a_table_for_each_attack_and_the_worst_case(made: dict[str, TableSet]) -> None:
    titles = [table.title for table in made["accuracy"].tables]
    assert titles == [
        "Accuracy %, cifar10, 10,000 test images, no attack",
        "Accuracy % under fgsm, linf, cifar10, 400 test images, protocol test (sound)",
        "Accuracy % under pgd, linf, cifar10, 400 test images, protocol test (sound)",
        "Accuracy % under worst case over attacks, linf, cifar10, 400 test images, protocol test (sound)",
    ]
    table = made["accuracy"].tables[2]
    assert list(table.columns) == ["network", "interval over", "clean", "ε = 2/255", "ε = 4/255", "ε = 8/255"]
    assert [row[0].text for row in table.rows] == ["strong", "weak ⚠ checks warned"]
    assert [row[1].text for row in table.rows] == ["3 seeds and their images"] * 2
    assert [row[5].best for row in table.rows] == [True, False]


def test_cells_are_the_rows_in_percent(made: dict[str, TableSet]) -> None:
    rows = made["accuracy"].rows
    for table, attack in zip(made["accuracy"].tables[1:3], ("fgsm", "pgd"), strict=True):
        for line, network in zip(table.rows, ("strong", "weak"), strict=True):
            for cell, epsilon in zip(line[3:], EPSILONS, strict=True):
                chosen = (rows["network"] == network) & (rows["attack"] == attack) & (rows["epsilon"] == epsilon)
                (row,) = rows[chosen].itertuples()
                assert cell.text == f"{100 * row.value:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]"


def test_the_leader_is_named_with_margin_and_doubt(made: dict[str, TableSet]) -> None:
    (table,) = made["leaders"].tables
    lines = {(row[0].text, row[1].text): [cell.text for cell in row[2:]] for row in table.rows}
    leader, other, margin, _, best, test = lines["worst case accuracy", "8/255"]
    assert (leader, other, best, test) == ("strong", "weak", "yes", "t over 3 seeds and their images")
    assert re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\] points", margin)
    assert lines["CLEVER", ""][0] == "none"


def test_measures_have_clean_worst_case_clever_and_the_rest(made: dict[str, TableSet]) -> None:
    (table,) = made["measures"].tables
    columns = ["clean %", "worst case % at 2/255", "worst case % at 4/255", "worst case % at 8/255", "CLEVER mean"]
    columns += ["CLEVER lower quartile", "CLEVER median", "CLEVER upper quartile", "removal"]
    assert list(table.columns) == ["network", "interval over", *columns]
    assert table.rows[0][-1].text == "4.5 [2.62, 6.38]"
    assert table.rows[0][8].text == "0.438 [0.438, 0.438]"


def test_costs_are_listed(made: dict[str, TableSet]) -> None:
    (table,) = made["costs"].tables
    assert list(table.columns)[2:] == ["parameters", "FLOPs per image", "training s", "images/s in training"]
    assert [cell.text for cell in table.rows[0]][2:] == ["1,234", "2,000,000", "120 [120, 120]", "900 [900, 900]"]


def test_the_corruption_table_is_fifteen_by_five(tmp_path: Path) -> None:
    data = CIFAR | {"_target_": "symmetry_robustness.data.CIFAR10C", "corruptions": "all"}
    names = [f"{corruption}_{severity}" for corruption in (*BENCHMARK, "spatter") for severity in range(1, 6)]
    for seed in range(3):
        accuracies = np.random.default_rng(seed).random(len(names))
        tested = {f"test/{name}/accuracy": share for name, share in zip(names, accuracies, strict=True)}
        mean = {"test_accuracy": tested, "clean_accuracy": float(accuracies.mean())}
        make_run(tmp_path / str(seed), data=data, seed=seed, summary=mean)
    made = sheets_of(tmp_path)
    total, table = made["corruptions"].tables
    assert len(table.rows) == 15
    assert {len(row) for row in table.rows} == {6}
    errors = [1 - np.random.default_rng(seed).random(len(names))[: 15 * 5].reshape(15, 5) for seed in range(3)]
    for row, expected in zip(table.rows, np.mean(errors, axis=0), strict=True):
        assert [cell.text.split(" ")[0] for cell in row[1:]] == [f"{100 * error:.1f}" for error in expected]
    assert total.rows[0][2].text.startswith(f"{100 * np.mean(errors):.1f} [")
    (accuracy,) = made["accuracy"].tables
    extra = ["spatter_1", "spatter_2", "spatter_3", "spatter_4", "spatter_5"]
    assert list(accuracy.columns)[2:] == [*extra, "mean over the test sets"]


def test_networks_that_could_not_be_compared_have_no_margin(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "other")):
        make_run(tmp_path / name, make_report(draw_broken_at(40, seed)), name=name, seed=seed)
    (table,) = sheets_of(tmp_path)["leaders"].tables
    assert {(row[4].text, row[6].text, row[7].text) for row in table.rows} == {("", "no", "no seed in common")}


@pytest.mark.parametrize("seeds", [2, 3])
def test_a_margin_below_0_is_explained(tmp_path: Path, seeds: int) -> None:
    shares = {"steady": [0.5, 0.5, 0.5][:seeds], "falling": [0.6, 0.6, 0.1]}
    for name, found in shares.items():
        for seed, share in enumerate(found):
            broken = np.where(np.arange(40) < 40 * share, np.inf, EPSILONS[0])
            make_run(tmp_path / f"{name}{seed}", make_report({"pgd": broken}), name=name, seed=seed)
    (table,) = sheets_of(tmp_path)["leaders"].tables
    (line,) = (row for row in table.rows if (row[0].text, row[1].text) == ("worst case accuracy", "8/255"))
    assert line[2].text == "steady"
    assert line[4].text.startswith("-10 [" if seeds == 2 else "6.67 [")
    assert any("By less than 0" in note for note in table.notes) == (seeds == 2)


def test_a_sheet_is_written_in_four_forms(made: dict[str, TableSet], tmp_path: Path) -> None:
    sheet = made["accuracy"]
    sheet.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"accuracy.{form}" for form in ("md", "tex", "csv", "parquet")
    }
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "accuracy.parquet"), sheet.rows.reset_index(drop=True))
    read = pd.read_csv(tmp_path / "accuracy.csv")
    np.testing.assert_allclose(read["value"], sheet.rows["value"])
    assert (tmp_path / "accuracy.md").read_text().count("###") == 4
