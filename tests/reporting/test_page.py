"""The report's page in a real headless browser, opened from disk."""

import html
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser

from .browser import Opened
from .made_page import ATTACKS, EPSILONS, HOSTILE, NETWORKS, make_page, write_page

# What has the focus: its name and how it shows it.
FOCUSED = """(({ activeElement: element }) =>
    [element.getAttribute("aria-label") ?? element.innerText, getComputedStyle(element).outlineStyle])(document)"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("page") / "report.html", 15)


@pytest.fixture
def opened(browser: Browser, file: Path) -> Iterator[Opened]:
    with browser.new_context(viewport={"width": 1280, "height": 900}, offline=True) as context:
        opened = Opened(context, file)
        yield opened
        assert opened.messages == []
        assert [url for url in opened.requests if not url.startswith(("data:", opened.address))] == []
        assert opened.page.evaluate("window.hacked") is None


def test_the_answer_stands_first_and_in_words(opened: Opened) -> None:
    answer = opened.page.locator(".answer")
    assert "parallel_rotation_scale is the most robust" in answer.inner_text()
    best = make_page(15).answers[2]
    assert best.position == 4 / 255
    value = f"{100 * accuracy_of(best.best, 4 / 255):.1f} %"
    assert value in answer.inner_text()
    for comparison in best.comparisons:
        assert f"+{100 * comparison.difference:.1f} points" in answer.inner_text()
        assert comparison.other in answer.inner_text()
    for words in ("95 % interval", "p = 0.004", "3 seeds", "512 images", "paper (ℓ∞)", "FGSM, PGD-40"):
        assert words in answer.inner_text(), words
    assert answer.bounding_box()["y"] < 900  # type: ignore[index]


def accuracy_of(name: str, epsilon: float) -> float:
    curve = next(c for c in make_page(15).curves if c.network == name and c.setting == 0 and c.attack == "worst_case")
    return curve.values[EPSILONS.index(epsilon)] or 0.0


def test_what_failed_a_check_cannot_win_and_is_marked_everywhere(opened: Opened) -> None:
    answer = opened.page.locator(".answer").inner_text()
    assert "Set aside" in answer
    assert "cascaded failed" in answer
    assert accuracy_of("cascaded", 4 / 255) > accuracy_of("parallel_rotation_scale", 4 / 255)
    ranking = opened.page.locator(".ranking tbody tr")
    assert ranking.last.locator("th").inner_text() == "cascaded"
    assert "3 failed" in ranking.last.inner_text()
    assert "3 of 15 evaluations failed" in opened.page.locator("ul.notice").inner_text()
    opened.page.get_by_label("Filter results by run by text").fill("cascaded paper")
    rows = opened.table("Results by run").locator("tbody tr")
    assert rows.count() == 3 * len(ATTACKS)
    assert {row.get_attribute("class") for row in rows.all()} == {"failed"}
    opened.draw()
    dashes = opened.page.evaluate(
        "Object.fromEntries(document.querySelector('.plot').data.map((trace) => [trace.name, trace.line.dash]))"
    )
    assert dashes["cascaded"] == dashes["parallel_rotation"] == "dot"
    assert dashes["standard"] == "solid"
    opened.go(run_address("cascaded"))
    assert "Read the checks below" in opened.page.locator("#run").inner_text()
    checks = opened.page.locator("#run .checks-list").first.locator("li")
    assert "412 of 500 have a zero gradient" in checks.first.inner_text()
    assert "Input gradients are not exactly zero." in checks.first.inner_text()


def run_address(name: str, seed: int = 0) -> str:
    return f"#/run/{quote(f'sweep/{name}_seed-{seed}', safe='')}"


def test_the_answer_follows_the_question(opened: Opened) -> None:
    page = opened.page
    page.get_by_label("protocol", exact=True).first.select_option(label="released_standard (re-enacted, ℓ∞)")
    answer = page.locator(".answer").inner_text()
    assert "Not a sound measurement" in answer
    assert "Do not rely on this" in answer
    page.get_by_label("strength").select_option(label="ε = 8/255")
    page.get_by_label("attack", exact=True).first.select_option("fgsm")
    assert page.evaluate("state.position") == 8 / 255
    page.get_by_label("data set", exact=True).first.select_option("shapes")
    assert "leads; no test tells whether by chance" in page.locator(".answer").inner_text()
    assert page.get_by_label("strength").locator("option:checked").inner_text() == "90°"


def test_tables_sort_by_any_column(opened: Opened) -> None:
    header = opened.table("Results by network").get_by_role("columnheader", name="ε 4/255")
    for direction, sign in (("ascending", 1), ("descending", -1)):
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == direction
        shown = [float(text.split()[0]) for text in opened.texts("Results by network", "ε 4/255")]
        assert len(shown) == 25
        assert shown == sorted(shown, key=lambda value: sign * value)
    opened.page.locator("#networks").get_by_role("button", name="Show all").click()
    values = opened.texts("Results by network", "ε 4/255")
    assert len(values) == 2 * 3 * 5 + 2
    assert values[-2:] == ["–", "–"]  # what was not measured comes last, whichever way it is sorted


def test_tables_filter_by_text_and_by_choice(opened: Opened) -> None:
    runs = opened.page.locator("#runs")
    count = runs.locator(".count")
    assert count.inner_text() == f"25 of {15 * 2 * 3} rows"
    runs.get_by_label("attack").select_option("PGD")
    runs.get_by_label("seed").select_option("1")
    assert count.inner_text() == f"10 rows ({15 * 2 * 3} without filter)"
    runs.get_by_role("searchbox").fill("PARALLEL released")
    assert set(opened.texts("Results by run", "Run")) == {
        "parallel_rotation · seed 1",
        "parallel_rotation_scale · seed 1",
    }
    runs.get_by_label("protocol").select_option(label="paper (ℓ∞)")
    assert count.inner_text() == f"0 rows ({15 * 2 * 3} without filter)"


def test_protocols_never_share_a_row_or_a_chart(opened: Opened) -> None:
    opened.draw()
    assert opened.page.locator("#curves .chart").count() == len(ATTACKS)
    lines = opened.page.evaluate("document.querySelector('.plot').data.filter((t) => t.name).length")
    assert lines == len(NETWORKS)
    keys = list(
        zip(
            *(opened.texts("Results by network", column) for column in ("Network", "Data", "Attack", "Protocol")),
            strict=True,
        )
    )
    assert len(set(keys)) == len(keys)


def test_curves_are_switched_per_network_and_have_bands_and_a_table(opened: Opened) -> None:
    opened.draw()
    names = "[...document.querySelectorAll('.plot')].map((p) => p.data.filter((t) => t.name).map((t) => t.name))"
    opened.page.get_by_role("checkbox", name="standard").uncheck()
    opened.until(f"{names}.every((n) => n.length === 4 && !n.includes('standard'))")
    opened.page.get_by_role("checkbox", name="standard").check()
    opened.until(f"{names}.every((n) => n.length === 5)")
    opened.page.get_by_role("button", name="None").click()
    opened.until(f"{names}.every((n) => n.length === 0)")
    opened.page.get_by_role("button", name="All", exact=True).click()
    opened.until(f"{names}.every((n) => n.length === 5)")
    band = opened.page.evaluate("document.querySelector('.plot').data[0]")
    assert band["fill"] == "toself"
    assert band["y"][1] == pytest.approx(min(1, accuracy_of(HOSTILE, 2 / 255) + 0.02))
    chart = opened.page.locator(".chart").first
    chart.get_by_text("Numbers as a table").click()
    assert (
        f"{100 * accuracy_of('standard', 4 / 255):.1f}"
        in chart.locator("tbody tr", has_text="standard").first.inner_text()
    )


def test_hovering_tells_the_number_with_its_doubt(opened: Opened) -> None:
    opened.draw()
    opened.page.locator(".plot").first.scroll_into_view_if_needed()
    opened.page.locator(".plot").first.locator(".point").nth(-2).hover(force=True)
    label = opened.page.locator(".plot .hoverlayer").first
    label.locator("text").first.wait_for()
    assert "cascaded" in label.text_content()  # type: ignore[operator]
    assert "3 failed" in label.text_content()  # type: ignore[operator]


def test_a_run_has_its_page_and_the_way_back(opened: Opened) -> None:
    opened.page.get_by_label("Filter results by run by text").fill("standard worst paper")
    opened.page.locator("#runs").get_by_role("link", name="standard · seed 2").first.click()
    run = opened.page.locator("#run")
    run.get_by_role("heading", name="standard · seed 2").wait_for()
    assert opened.page.title() == "standard, seed 2 – Robustness report"
    assert not opened.page.locator("#report").is_visible()
    opened.draw()
    for words in ("1,771,562", "c97a833", "symrob train experiment=paper", "CLEVER", "released_standard", "train/loss"):
        assert words in run.inner_text(), words
    run.get_by_text("Configuration (config.yaml)").click()
    assert HOSTILE in run.locator("pre").inner_text()
    opened.page.go_back()
    opened.page.locator("#runs").wait_for()
    assert opened.texts("Results by run", "Run")[0] == "standard · seed 0"  # the filter is still there


def test_pictures_are_on_the_page_and_say_what_they_show(opened: Opened) -> None:
    opened.go(run_address(HOSTILE))
    pictures = opened.page.locator("#run img")
    assert pictures.count() == 10  # two reports of five images
    assert pictures.first.get_attribute("alt") == "pgd, image 1: ε = 2/255"
    assert pictures.first.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 32


def test_an_unknown_run_is_told(opened: Opened) -> None:
    opened.go("#/run/elsewhere")
    assert "No such run" in opened.page.locator("#run").inner_text()


def test_hostile_texts_stay_texts(opened: Opened) -> None:
    opened.go(run_address(HOSTILE, 1))
    opened.draw()
    assert opened.page.locator("#run h2").inner_text().startswith(HOSTILE)
    opened.page.get_by_role("link", name="All runs").click()
    opened.draw()
    assert HOSTILE in opened.page.locator("#problems").inner_text()
    assert opened.page.locator("img[src=x]").count() == 0
    # Even script that found its way into the page would not run: only the two whose digests are stated may.
    blocked = opened.page.evaluate(
        """() => new Promise((resolve) => {
          document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
          const script = document.createElement("script");
          script.textContent = "window.hacked = 1";
          document.body.append(script);
        })"""
    )
    assert blocked.startswith("script-src")
    opened.messages.clear()  # the browser's word about the violation


def test_the_page_cannot_reach_the_network(opened: Opened) -> None:
    assert opened.page.evaluate("fetch('https://example.org').then(() => 'fetched', () => 'refused')") == "refused"
    assert opened.requests == [opened.address, "data:,"] or opened.requests == [opened.address]
    opened.messages.clear()  # the browser's word about the violation


def test_claims_stand_beside_measurements(opened: Opened) -> None:
    rows = opened.table("Claims of the paper").locator("tbody tr").all_inner_texts()
    assert "11.2" in rows[0]
    assert "12.0" in rows[0]
    assert "holds only under the released protocol" in rows[0]
    assert "not measured" in rows[1]


def test_the_keyboard_is_enough(opened: Opened) -> None:
    page = opened.page
    press = page.keyboard.press
    press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    seen = []
    for _ in range(60):
        press("Tab")
        seen.append(page.evaluate(FOCUSED))
        if seen[-1][0].startswith("Seeds"):
            break
    assert all(outline != "none" for _, outline in seen)
    order = [label for label, _ in seen]
    assert [label for label in order if label in ("data set", "attack", "strength", "protocol")][:4] == [
        "data set",
        "attack",
        "strength",
        "protocol",
    ]
    assert "Filter results by network by text" in order
    press("Enter")
    assert page.evaluate("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"
    press("Space")
    assert page.evaluate("document.activeElement.closest('th').getAttribute('aria-sort')") == "descending"
    page.get_by_label("strength").focus()
    press("ArrowDown")
    assert page.evaluate("[state.position, document.activeElement.getAttribute('aria-label')]") == [8 / 255, "strength"]
    page.locator("#runs").get_by_role("link", name="standard · seed 0").first.focus()
    press("Enter")
    page.locator("#run h2").wait_for()
    assert page.evaluate("document.activeElement.id") == "run"


@pytest.mark.parametrize("width", [375, 360])
@pytest.mark.parametrize("fragment", ["", run_address("cascaded"), run_address(HOSTILE)])
def test_a_phone_never_scrolls_sideways(browser: Browser, file: Path, fragment: str, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 700}, has_touch=True, is_mobile=True) as context:
        opened = Opened(context, file)
        opened.go(fragment)
        opened.draw()
        for details in opened.page.locator("details").all():
            if details.is_visible():
                details.evaluate("(element) => { element.open = true; }")
        assert opened.page.evaluate("document.documentElement.scrollWidth") == width
        ends = opened.page.locator("#run img").evaluate_all(
            "(all) => all.map((one) => one.getBoundingClientRect().right)"
        )
        assert max(ends, default=0) <= width
        assert opened.messages == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("fragment", ["", run_address("cascaded")])
def test_an_accessibility_checker_finds_nothing(browser: Browser, file: Path, fragment: str, scheme: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with browser.new_context(color_scheme=scheme, bypass_csp=True) as context:
        opened = Opened(context, file)
        opened.go(fragment)
        opened.draw()
        found = axe.run(opened.page)
        assert found.violations_count == 0, found.generate_report()


def test_a_thousand_runs(browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it costs is printed; benchmarks/report.py measures it on run directories."""
    start = time.perf_counter()
    file = write_page(tmp_path / "report.html", 1000)
    written = time.perf_counter() - start
    with browser.new_context() as context:
        start = time.perf_counter()
        opened = Opened(context, file)
        opened.page.get_by_label("strength").select_option(label="ε = 8/255")
        ready = time.perf_counter() - start
        assert opened.page.locator("#runs .count").inner_text() == "25 of 6,000 rows"
        assert opened.page.locator("tr").count() < 200
        opened.page.get_by_label("Filter results by run by text").fill("seed-199")
        opened.go(run_address("standard", 199))
        assert opened.messages == []
    with capsys.disabled():
        print(f"1,000 runs: written in {written:.1f} s, {file.stat().st_size >> 20} MiB, interactive in {ready:.2f} s")


def test_the_script_can_stand_in_html(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(re.findall("</script", text)) == len(re.findall("<script", text))
    assert HOSTILE not in text
    assert html.escape(HOSTILE) not in text
