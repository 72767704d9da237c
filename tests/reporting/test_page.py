"""The report's page in a real headless browser, opened from disk."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext

from symmetry_robustness.reporting.load import find_runs

from .browser import Opened
from .made import EPSILONS, draw_broken_at, make_report, make_run
from .made_page import HOSTILE, IMAGES, NETWORKS, SEEDS, broken_at, make_sweep, write, write_runs

RANKING, RUNS = "Networks, best first", "Results by run"
# The element that has the focus: its name and how it shows it.
FOCUSED = """(({ activeElement: element }) =>
    [element.getAttribute("aria-label") ?? element.innerText, getComputedStyle(element).outlineStyle])(document)"""
LINES = "[...document.querySelectorAll('.plot')].map((p) => p.data.filter((t) => t.name))"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("page")
    return write(directory / "report.html", make_sweep(directory / "runs"))


@pytest.fixture(scope="module")
def desktop(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(viewport={"width": 1280, "height": 900}, offline=True, color_scheme="light") as context:
        yield context


@pytest.fixture
def opened(desktop: BrowserContext, file: Path) -> Iterator[Opened]:
    opened = Opened(desktop, file)
    yield opened
    assert opened.messages == []
    assert [url for url in opened.requests if not url.startswith(("data:", opened.address))] == []
    assert opened.page.evaluate("window.hacked") is None
    opened.page.close()


def mean(name: str, epsilon: float, attack: str = "pgd") -> float:
    """Accuracy in percent, over seeds; PGD is never weaker than FGSM here, so that it is the worst case."""
    return 100 * float(np.mean([broken_at(name, seed)[attack] > epsilon for seed in range(SEEDS)]))


def run_address(name: str, seed: int = 0) -> str:
    return f"#/run/{quote(f'network{list(NETWORKS).index(name)}_seed-{seed}', safe='')}"


def test_the_answer_stands_first_and_in_words(opened: Opened) -> None:
    opened.choose("strength", "ε = 4/255")
    answer = opened.page.locator("#said .answer")
    text = answer.inner_text()
    leader, following = mean("parallel_rotation_scale", EPSILONS[1]), mean("parallel_rotation", EPSILONS[1])
    standard = mean("standard", EPSILONS[1])
    assert text.startswith("parallel, rotation + scale ")
    for words in (
        f"{leader:.1f} %", f"+{leader - following:.1f} points", f"+{leader - standard:.1f} points",
        "over parallel, rotation;", "over standard;", f"{SEEDS} seeds, {IMAGES} images each", "FGSM, PGD-10 (ℓ∞)", "p ",
    ):  # fmt: skip
        assert words in text, words
    assert answer.bounding_box()["y"] < 900  # type: ignore[index]


def test_what_failed_a_check_cannot_lead_and_is_marked_everywhere(opened: Opened) -> None:
    answer = opened.page.locator("#said .answer").inner_text()
    assert "Set aside cascaded: failed soundness checks" in answer
    assert mean("cascaded", EPSILONS[1]) > mean("parallel_rotation_scale", EPSILONS[1])
    last = opened.rows(RANKING).last
    assert (last.locator("th").inner_text(), last.get_attribute("class")) == ("cascaded", "failed")
    assert f"failed in {SEEDS} of {SEEDS} runs" in last.inner_text()
    notice = opened.page.locator("ul.notice").inner_text()
    assert f"{SEEDS} of {SEEDS * len(NETWORKS)} evaluations failed" in notice
    assert "1 run left out" in notice
    opened.page.get_by_label(f"Filter {RUNS} by text").fill("cascaded")
    assert [row.get_attribute("class") for row in opened.rows(RUNS).all()] == ["failed"] * SEEDS
    opened.drawn()
    dashes = {line["name"]: line["line"]["dash"] for line in opened.page.evaluate(LINES)[0]}
    assert dashes["cascaded"] == dashes["parallel, rotation"] == "dot"
    assert dashes["standard"] == "solid"
    opened.go(run_address("cascaded"))
    assert "Read the checks below" in opened.page.locator("#run").inner_text()
    check = opened.page.locator("#run .checks li").first.inner_text()
    assert "412 of 500 have a zero gradient" in check
    assert "Input gradients are not exactly zero" in check


def test_everything_follows_the_question(opened: Opened) -> None:
    opened.choose("attack", "FGSM")
    opened.choose("strength", "ε = 8/255")
    expected = {name: mean(name, EPSILONS[2], "fgsm") for name in NETWORKS}
    shown = dict(zip(opened.texts(RANKING, "Network"), map(float, opened.texts(RANKING, "% correct")), strict=True))
    assert shown["standard"] == pytest.approx(expected["standard"], abs=0.051)
    assert shown["parallel, rotation"] == pytest.approx(expected["parallel_rotation"], abs=0.051)
    everywhere = opened.texts(RANKING, "ε = 2/255")[list(shown).index("standard")]
    assert float(everywhere) == pytest.approx(mean("standard", EPSILONS[0], "fgsm"), abs=0.051)
    opened.page.get_by_label(f"Filter {RUNS} by text").fill("standard, seed 1")
    (one,) = opened.texts(RUNS, "% correct")
    assert float(one) == pytest.approx(100 * (broken_at("standard", 1)["fgsm"] > EPSILONS[2]).mean(), abs=0.051)
    opened.choose("protocol", "released (re-enacted, ℓ∞)")
    assert opened.page.evaluate("[attacked().name, attacked().places[state.strength]]") == ["FGSM", "ε = 8/255"]
    assert "Not a sound measurement" in opened.page.locator("#said").inner_text()
    opened.page.locator("#runs").get_by_label("strength").select_option(label="clean (ε = 0)")
    assert (
        opened.page.locator("#answer").get_by_label("strength").locator("option:checked").inner_text()
        == "clean (ε = 0)"
    )
    opened.page.locator("#protocols").get_by_role("link", name="no attack").click()
    opened.until("asked().name === 'test accuracy'")


def test_tables_sort_and_filter(opened: Opened) -> None:
    head = opened.page.get_by_role("group", name=RUNS).get_by_role("columnheader", name="% correct")
    for direction, sign in (("ascending", 1), ("descending", -1)):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == direction
        shown = [float(text) for text in opened.texts(RUNS, "% correct")]
        assert shown == sorted(shown, key=lambda value: sign * value)
    search = opened.page.get_by_label(f"Filter {RUNS} by text")
    search.fill("ROTATION seed 2")
    assert sorted(opened.texts(RUNS, "Run")) == ["parallel, rotation + scale, seed 2", "parallel, rotation, seed 2"]
    count = opened.page.locator("#by-run .count")
    assert count.inner_text() == f"2 rows ({SEEDS * len(NETWORKS)} without filter)"
    claims = opened.page.locator("#claims")
    assert claims.locator("tbody tr:not([hidden])").count() == 25
    claims.get_by_role("button", name="Show all").click()
    rows = claims.locator("tbody tr")
    assert claims.locator("tbody tr:not([hidden])").count() == rows.count() > 100
    claims.get_by_role("button", name="paper", exact=True).click()
    claimed = [float(text.replace(",", "")) for text in rows.locator("> :nth-child(3)").all_inner_texts()]
    assert claimed == sorted(claimed)


def test_curves_are_switched_per_network_and_have_bands(opened: Opened) -> None:
    opened.drawn()
    assert opened.page.locator("#curves .chart").count() == 3  # two attacks and the worst of them
    lines = opened.page.evaluate(LINES)
    assert [len(one) for one in lines] == [len(NETWORKS)] * 3
    found = next(line for line in lines[0] if line["name"] == "standard")
    assert found["y"] == pytest.approx([mean("standard", epsilon) for epsilon in (0.0, *EPSILONS)], abs=0.051)
    opened.page.get_by_role("checkbox", name="standard").uncheck()
    opened.until(f"{LINES}.every((lines) => lines.every(({{ name }}) => name !== 'standard'))")
    band = opened.page.evaluate("document.querySelector('.plot').data[0]")
    assert (band["fill"], band["mode"]) == ("toself", "none")
    opened.page.get_by_role("checkbox", name="standard").check()
    opened.until(f"{LINES}.every((lines) => lines.length === {len(NETWORKS)})")
    opened.page.locator(".plot").first.scroll_into_view_if_needed()
    opened.page.locator(".plot").first.locator(".point").nth(-2).hover(force=True)
    label = opened.page.locator(".plot .hoverlayer").first
    label.locator("text").first.wait_for()
    assert " %" in (label.text_content() or "")


def test_charts_follow_the_window(opened: Opened) -> None:
    opened.drawn()
    plots = "[...document.querySelectorAll('.plot')]"
    fits = f"{plots}.every((plot) => Math.abs(plot.querySelector('.main-svg').clientWidth - plot.clientWidth) < 2)"
    for width in (700, 1280):
        opened.page.set_viewport_size({"width": width, "height": 900})
        opened.until(fits)


def test_a_run_has_its_page_and_the_way_back(opened: Opened) -> None:
    link = opened.page.locator("#runs").get_by_role("link", name="standard, seed 2")
    link.scroll_into_view_if_needed()
    before = link.evaluate("(element) => element.getBoundingClientRect().top")
    link.click()
    run = opened.page.locator("#run")
    run.get_by_role("heading", name="standard, seed 2").wait_for()
    assert opened.page.title() == "standard, seed 2"
    assert not opened.page.locator("#report").is_visible()
    opened.drawn()
    accuracy = 100 * (broken_at("standard", 2)["pgd"] > EPSILONS[1]).mean()
    for words in (
        "1,234",
        "commit",
        "abc",
        "train/loss",
        "released (re-enacted",
        f"{accuracy:.1f} [",
        "Not a sound measurement",
    ):
        assert words in run.inner_text(), words
    run.get_by_text("Configuration (config.yaml)").click()
    assert HOSTILE in run.locator("pre").inner_text()
    pictures = run.locator("img")
    assert pictures.count() == 3  # clean, attacked, the change
    assert (pictures.nth(1).get_attribute("alt") or "").startswith("pgd: ")
    assert pictures.first.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 5 * 33 - 1
    opened.page.go_back()
    opened.page.locator("#runs").wait_for()
    opened.page.wait_for_timeout(200)
    assert link.evaluate("(element) => element.getBoundingClientRect().top") == pytest.approx(before, abs=2)
    link.click()
    run.get_by_role("heading", name="standard, seed 2").wait_for()
    opened.page.get_by_role("link", name="Claims of the paper").click()
    opened.page.locator("#claims").wait_for()
    assert 0 <= opened.page.locator("#claims").evaluate("(element) => element.getBoundingClientRect().top") < 450
    opened.go("#/run/elsewhere")
    assert "No such run" in run.inner_text()


def test_hostile_texts_stay_texts_and_nothing_is_asked_of_a_server(opened: Opened, file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count("</script") == text.count("<script")
    assert HOSTILE not in text
    opened.go(run_address(HOSTILE))
    opened.drawn()
    assert HOSTILE.replace("_", " ") in opened.page.locator("#run h2").inner_text()
    assert opened.page.locator("img[src=x]").count() == 0
    assert opened.page.evaluate("fetch('https://example.org').then(() => 'fetched', () => 'refused')") == "refused"
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
    opened.messages.clear()  # the browser's words about the two violations


def test_the_keyboard_is_enough(opened: Opened) -> None:
    page = opened.page
    press = page.keyboard.press
    press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    seen: list[list[str]] = []
    while len(seen) < 60 and not (
        seen and seen[-1][0].startswith("Seed") and f"{RUNS}" in [label for label, _ in seen]
    ):
        press("Tab")
        seen.append(page.evaluate(FOCUSED))
    assert all(outline != "none" for _, outline in seen)
    order = [label for label, _ in seen]
    assert [label for label in order if label in ("data set", "attack", "strength", "protocol")][:4] == [
        "data set",
        "attack",
        "strength",
        "protocol",
    ]
    for direction, key in (("ascending", "Enter"), ("descending", "Space")):
        press(key)
        assert page.evaluate("document.activeElement.closest('th').getAttribute('aria-sort')") == direction
    page.locator("#answer").get_by_label("strength").focus()
    before = page.evaluate("state.strength")
    press("ArrowUp")
    assert page.evaluate("[state.strength, document.activeElement.name]") == [before - 1, "strength"]
    page.locator("#runs").get_by_role("link", name="standard, seed 0").focus()
    press("Enter")
    page.locator("#run h2").wait_for()
    assert page.evaluate("document.activeElement.id") == "run"


@pytest.mark.parametrize("fragment", ["", run_address("cascaded"), run_address(HOSTILE)])
def test_a_phone_never_scrolls_sideways(browser: Browser, file: Path, fragment: str) -> None:
    with browser.new_context(viewport={"width": 375, "height": 700}, has_touch=True, is_mobile=True) as context:
        opened = Opened(context, file)
        opened.go(fragment)
        opened.drawn()
        opened.page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        for width in (375, 360):
            opened.page.set_viewport_size({"width": width, "height": 700})
            assert opened.page.evaluate("document.documentElement.scrollWidth") == width
        assert opened.messages == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_accessibility_checker_finds_nothing(browser: Browser, file: Path, scheme: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with browser.new_context(color_scheme=scheme, bypass_csp=True) as context:
        opened = Opened(context, file)
        for fragment in ("", run_address("cascaded")):
            opened.go(fragment)
            opened.drawn()
            found = axe.run(opened.page, options={"resultTypes": ["violations"]})  # others fill a megabyte
            assert found.violations_count == 0, found.generate_report()


def test_paper_is_white_open_and_whole(browser: Browser, file: Path) -> None:
    with browser.new_context(color_scheme="dark", viewport={"width": 1280, "height": 900}) as context:
        opened = Opened(context, file)
        opened.drawn()
        page = opened.page
        background = "getComputedStyle(document.body).backgroundColor"
        open_ = "[...document.querySelectorAll('details')].map((one) => one.open)"
        assert page.evaluate(background) == "rgb(18, 20, 23)"
        page.evaluate("document.querySelector('#answer').append(document.createElement('details'))")
        before = page.evaluate(open_)
        claims = page.locator("#claims tbody tr:not([hidden])")
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 718, "height": 1000})
        assert page.evaluate(background) == "rgb(255, 255, 255)"
        assert page.locator("#said .answer").is_visible()
        for control in (
            page.locator("nav"),
            page.get_by_role("searchbox").first,
            page.get_by_role("button", name="Show all").first,
        ):
            assert not control.is_visible()
        assert all(page.evaluate(open_))
        assert page.evaluate("document.documentElement.scrollWidth") <= 718
        assert claims.count() == page.locator("#claims tbody tr").count() > 100
        charts = page.evaluate(
            """[...document.querySelectorAll("#curves .chart")].map((chart) => {
                const edges = (selector) => [...chart.querySelectorAll(selector)].at(-1).getBoundingClientRect();
                const { left, right, bottom } = chart.getBoundingClientRect();
                const ink = getComputedStyle(chart.querySelector(".xtick text")).fill;
                return { left, right, bottom, tick: edges(".xtick text").right, end: edges(".main-svg").bottom, ink };
            })"""
        )
        assert len(charts) == 3
        for chart in charts:
            assert chart["left"] + 0.8 * (chart["right"] - chart["left"]) < chart["tick"] <= chart["right"]
            assert chart["end"] <= chart["bottom"]
            assert chart["ink"] == "rgb(85, 91, 102)"  # as on a light screen
        page.emulate_media(media="screen")
        page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert page.evaluate(open_) == before
        assert claims.count() == 25
        assert page.pdf(format="A4")[:4] == b"%PDF"
        assert opened.messages == []


def test_numbers_are_rounded_as_in_the_tables(opened: Opened) -> None:
    shares = [correct / images for images in (128, 512, 1000, 10_000) for correct in range(images + 1)]
    sent = [round(100 * share, 1) for share in shares]
    assert opened.page.evaluate("(sent) => sent.map(text)", sent) == [f"{100 * share:.1f}" for share in shares]


def test_one_training_each_on_another_copy_says_so(desktop: BrowserContext, tmp_path: Path) -> None:
    data = {"_target_": "symmetry_robustness.data.CIFAR10DataModule", "copy": "other"}
    for strength, name in ((0.1, "standard"), (60.0, "cascaded")):
        make_run(tmp_path / "runs" / name, make_report(draw_broken_at(900, 0, strength)), name=name, data=data)
    opened = Opened(desktop, write(tmp_path / "report.html", tmp_path / "runs"))
    text = opened.page.locator("#said .answer").inner_text()
    assert text.startswith("cascaded leads; one training each")
    assert "these two trained networks differ on such images: p < 0.001" in text
    assert "not the official files" in text
    assert "hardly chance" not in text
    assert "Every soundness check of every evaluation passed" in opened.page.locator("#checks").inner_text()
    opened.page.close()


def test_a_thousand_runs(browser: Browser, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its cost is printed; benchmarks/report.py measures it on run directories."""
    runs, _ = find_runs([file.parent / "runs"])
    many = []
    for number in range(1000):
        run, seed = runs[number % len(runs)], number // len(NETWORKS)
        directory = tmp_path / "runs" / str(number)
        directory.mkdir(parents=True)
        (directory / "config.yaml").write_text((run.directory / "config.yaml").read_text())
        many.append(replace(run, directory=directory, summary=run.summary | {"seed": seed}))
    start = time.perf_counter()
    page = write_runs(tmp_path / "report.html", many)
    written = time.perf_counter() - start
    with browser.new_context() as context:
        start = time.perf_counter()
        opened = Opened(context, page)
        opened.choose("strength", "ε = 8/255")
        ready = time.perf_counter() - start
        assert opened.page.locator("#by-run .count").inner_text() == "25 of 1,000 rows"
        opened.page.get_by_label(f"Filter {RUNS} by text").fill("seed 199")
        assert opened.rows(RUNS).count() == len(NETWORKS)
        opened.go("#/run/999")
        assert "seed 199" in opened.page.locator("#run h2").inner_text()
        assert opened.messages == []
    with capsys.disabled():
        print(f"1,000 runs: written in {written:.1f} s, {page.stat().st_size >> 20} MiB, interactive in {ready:.2f} s")
