"""The report's page on paper."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from .browser import Opened
from .made_page import ATTACKS, make_page, write_page

# Of each chart: its frame, where its last tick ends, where the drawing ends and the numbers begin, the texts' colour.
CHARTS = """[...document.querySelectorAll("#curves .chart")].map((chart) => {
    const edges = (selector) => [...chart.querySelectorAll(selector)].at(-1).getBoundingClientRect();
    const { left, right } = chart.getBoundingClientRect();
    const colour = getComputedStyle(chart.querySelector(".xtick text")).fill;
    const [bottom, begins] = [edges(".main-svg").bottom, edges(".scroller").top];
    return { left, right, tick: edges(".xtick text").right, bottom, begins, colour };
})"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("page") / "report.html", 60)


@pytest.fixture
def opened(browser: Browser, file: Path) -> Iterator[Opened]:
    with browser.new_context(color_scheme="dark", viewport={"width": 1280, "height": 900}) as context:
        opened = Opened(context, file)
        opened.draw()
        yield opened
        assert opened.messages == []


def print_on(opened: Opened, width: int) -> None:
    """As the browser does it: the event comes while the page is still a screen's, then it is laid out for paper."""
    opened.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    opened.page.emulate_media(media="print")
    opened.page.set_viewport_size({"width": width, "height": 1000})


def test_paper_is_white_and_has_no_controls(opened: Opened) -> None:
    page = opened.page
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 23)"
    assert page.get_by_role("button", name="None").is_visible()
    print_on(opened, 718)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".answer").is_visible()
    for control in (page.locator("nav"), page.get_by_role("searchbox").first, page.get_by_role("button", name="None")):
        assert not control.is_visible()
    assert not page.get_by_role("button", name="Show all").first.is_visible()


@pytest.mark.parametrize("paper", [{"format": "A4"}, {"format": "A3"}, {"format": "A4", "landscape": True}])
def test_charts_fit_the_paper_in_its_colours(opened: Opened, paper: dict[str, Any]) -> None:
    measure = f"(to) => {{ if (to.matches) window.charts = {CHARTS}; }}"
    opened.page.evaluate(f"matchMedia('print').addEventListener('change', {measure})")
    assert opened.page.pdf(**paper)[:4] == b"%PDF"
    charts = opened.page.evaluate("charts")
    assert len(charts) == len(ATTACKS)
    for chart in charts:
        assert chart["left"] + 0.85 * (chart["right"] - chart["left"]) < chart["tick"] <= chart["right"]
        assert chart["bottom"] <= chart["begins"]
        assert chart["colour"] == "rgb(85, 91, 102)"  # muted, as on a light screen


def test_everything_is_open_on_paper_and_as_it_was_afterwards(opened: Opened) -> None:
    page = opened.page
    before = page.evaluate("[...document.querySelectorAll('details')].map((one) => one.open)")
    tick = page.evaluate(CHARTS)[0]["tick"]
    assert not all(before)
    print_on(opened, 718)
    assert page.locator("#curves .chart tbody").first.is_visible()
    assert page.get_by_role("group", name="Claims of the paper, table").is_visible()
    assert page.evaluate("[...document.querySelectorAll('details')].every((one) => one.open)")
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].map((one) => one.open)") == before
    opened.until(f'{CHARTS}.every((chart) => chart.colour === "rgb(169, 176, 187)")')
    assert page.evaluate(CHARTS)[0]["tick"] == pytest.approx(tick, abs=1)


def test_tables_are_printed_whole_or_say_what_they_leave_out(opened: Opened) -> None:
    runs, networks = opened.page.locator("#runs"), opened.page.locator("#networks")
    assert runs.locator("tbody tr").count() == networks.locator("tbody tr").count() == 25
    print_on(opened, 718)
    assert networks.locator("tbody tr").count() == len(make_page(60).curves)
    assert runs.locator("tbody tr").count() == 200
    assert f"{60 * 2 * len(ATTACKS) - 200} more rows not printed" in runs.locator(".more").inner_text()
    assert networks.locator(".more").inner_text().strip() == ""
    opened.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert runs.locator("tbody tr").count() == 25
