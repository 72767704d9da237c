"""What the page says of one training, how it goes from question to question, and how its numbers are rounded."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext

from symmetry_robustness.reporting.page import render_page

from .browser import Opened
from .made import CIFAR, draw_broken_at, make_report, make_run
from .made_page import make_details, make_page, write_page
from .test_page_data import page_of

CIFAR100 = CIFAR | {"_target_": "symmetry_robustness.data.CIFAR100DataModule"}
TOP = "(element) => element.getBoundingClientRect().top"
BORDER = "(element) => getComputedStyle(element).borderTopColor"
GREEN, GREY = "rgb(26, 106, 58)", "rgb(139, 143, 152)"


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light", offline=True) as context:
        yield context


def test_one_training_each_is_no_verdict(context: BrowserContext, tmp_path: Path) -> None:
    page = make_page(5)
    single = [
        replace(answer, verdict="single", comparisons=[replace(one, seeds=1) for one in answer.comparisons])
        for answer in page.answers
    ]
    several, one = tmp_path / "several.html", tmp_path / "one.html"
    several.write_text(render_page(page, map(make_details, range(5))))
    one.write_text(render_page(replace(page, answers=single), map(make_details, range(5))))
    strong, weak = (Opened(context, file).page.locator(".answer") for file in (several, one))
    assert "is the most robust" in strong.inner_text()
    assert "hardly chance" in strong.inner_text()
    assert strong.evaluate(BORDER) == GREEN
    assert "leads; one training each" in weak.inner_text()
    assert "these two trained networks differ on such images: p = 0.004" in weak.inner_text()
    assert "most robust" not in weak.inner_text()
    assert "hardly chance" not in weak.inner_text()
    assert weak.evaluate(BORDER) == GREY
    assert weak.locator(".sure").count() == 0


def test_another_data_set_keeps_protocol_attack_and_strength(context: BrowserContext, tmp_path: Path) -> None:
    released = {"judge": "returned"}
    for number, (data, name) in enumerate([(d, n) for d in (CIFAR, CIFAR100) for n in ("standard", "cascaded")]):
        run = make_run(tmp_path / str(number), make_report(draw_broken_at(50, number)), name=name, data=data)
        if data is CIFAR100:  # what only this one has: a second protocol
            report = make_report(draw_broken_at(50, number))
            replace(report, settings=report.settings | released).save(run / "robustness", "released")
    page, runs = page_of(tmp_path)
    assert [page.settings[number].protocol for number in page.starts.values()] == ["FGSM, PGD-10"] * 2
    file = tmp_path / "report.html"
    file.write_text(render_page(page, [{}] * len(runs)))
    opened = Opened(context, file).page

    def choose(label: str, value: str | dict[str, str]) -> None:
        question = opened.locator(".question").get_by_label(label, exact=True)
        question.select_option(**(value if isinstance(value, dict) else {"value": value}))

    def asked() -> list[str]:
        return opened.locator(".question option:checked").all_inner_texts()

    choose("attack", "fgsm")
    choose("strength", {"label": "ε = 8/255"})
    choose("data set", "cifar100")
    assert asked() == ["cifar100", "FGSM", "ε = 8/255", "FGSM, PGD-10 (ℓ∞)"]
    choose("protocol", {"label": "test accuracy"})
    choose("data set", "cifar10")
    assert asked() == ["cifar10", "no attack", "test accuracy"]
    choose("data set", "cifar100")
    choose("protocol", {"label": "released (re-enacted, ℓ∞)"})
    choose("data set", "cifar10")  # has no such protocol
    assert asked()[-1] == "FGSM, PGD-10 (ℓ∞)"


def test_data_that_are_not_the_official_files_are_said_to_be(context: BrowserContext, tmp_path: Path) -> None:
    for copy in ("official", "other"):
        for number, name in enumerate(("standard", "cascaded")):
            report = make_report(draw_broken_at(50, number))
            make_run(tmp_path / copy / name, report, name=name, data=CIFAR | {"copy": copy})
        page, runs = page_of(tmp_path / copy)
        file = tmp_path / f"{copy}.html"
        file.write_text(render_page(page, [{}] * len(runs)))
        answer = Opened(context, file).page.locator(".answer").inner_text()
        assert ("not the official files" in answer) == (copy == "other")


def test_links_out_of_the_page_of_a_run_lead_where_they_say(context: BrowserContext, tmp_path: Path) -> None:
    opened = Opened(context, write_page(tmp_path / "report.html", 60))
    page = opened.page
    for name, place in (("← All runs", "#runs"), ("Claims of the paper", "#claims"), ("By run", "#runs")):
        page.locator("#runs tbody a").first.click()
        page.locator("#run h2").wait_for()
        page.get_by_role("link", name=name).click()
        page.locator("#runs").wait_for()
        assert page.evaluate("location.hash") == place
        assert 0 <= page.locator(place).evaluate(TOP) < 450
    # The browser's Back goes to where one was, however one had come there.
    link = page.locator("#runs tbody a").nth(20)
    link.scroll_into_view_if_needed()
    before = link.evaluate(TOP)
    assert page.evaluate("location.hash") == "#runs"
    link.click()
    page.locator("#run h2").wait_for()
    page.go_back()
    page.locator("#runs").wait_for()
    page.wait_for_timeout(200)
    assert link.evaluate(TOP) == pytest.approx(before, abs=2)


def test_numbers_are_rounded_as_in_the_tables(context: BrowserContext, tmp_path: Path) -> None:
    shares = [correct / images for images in (128, 512, 1000, 10_000) for correct in range(images + 1)]
    shares += np.random.default_rng(0).random(2000).tolist()
    opened = Opened(context, write_page(tmp_path / "report.html", 5)).page
    assert opened.evaluate("(shares) => shares.map((share) => percent(share))", shares) == [
        f"{100 * share:.1f}" for share in shares
    ]
    values = [*shares, *(2.125 + 0.25 * step for step in range(400)), *(share * 1000 for share in shares), 1e-9, 3e7]
    rounded = opened.evaluate("(values) => values.map((value) => Number(significant(value).replace('−', '-')))", values)
    assert rounded == [float(f"{value:.3g}") for value in values]
    assert opened.evaluate("[signed(-0.25), signed(0.25), signed(0.35)]") == ["−0.2", "+0.2", "+0.3"]


def test_words_do_not_break_and_a_page_where_all_passed_fits_a_phone(context: BrowserContext, tmp_path: Path) -> None:
    for name in ("cascaded", "parallel_rotation_scale"):
        make_run(
            tmp_path / name,
            make_report(draw_broken_at(128, 0)),
            name=name,
            data={"_target_": "symmetry_robustness.data.ShapesDataModule", "test_size": 128},
        )
    page, runs = page_of(tmp_path)
    file = tmp_path / "report.html"
    file.write_text(render_page(page, [{}] * len(runs)))
    opened = Opened(context, file).page
    lines = opened.evaluate(
        """["networks", "runs"].flatMap((id) => [...document.querySelectorAll(`#${id} td.name`)].flatMap((cell) => {
            const words = [];
            for (const node of cell.childNodes) {
                for (const { 0: word, index } of (node.data ?? "").matchAll(/\\S+/g)) {
                    const range = document.createRange();
                    range.setStart(node, index);
                    range.setEnd(node, index + word.length);
                    words.push([word, range.getClientRects().length]);
                }
            }
            return words;
        }))"""
    )
    assert {word for word, _ in lines} >= {"shapes", "PGD", "PGD-10", "case"}
    assert {word for word, count in lines if count > 1} == set()
    opened.set_viewport_size({"width": 360, "height": 700})
    assert "Every soundness check of every evaluation passed" in opened.locator("#checks").inner_text()
    assert opened.evaluate("document.documentElement.scrollWidth") == 360


def test_charts_follow_the_window(context: BrowserContext, tmp_path: Path) -> None:
    opened = Opened(context, write_page(tmp_path / "report.html", 5))
    opened.draw()
    plots = "[...document.querySelectorAll('.plot')]"
    fits = f"{plots}.every((plot) => plot.querySelector('.main-svg').clientWidth === plot.clientWidth)"
    for width in (800, 500, 1280):
        opened.page.set_viewport_size({"width": width, "height": 700})
        opened.until(fits)


def test_measures_and_costs_stand_side_by_side(context: BrowserContext, tmp_path: Path) -> None:
    opened = Opened(context, write_page(tmp_path / "report.html", 15))
    table = opened.table("Measures and costs")
    head = table.get_by_role("columnheader", name="CLEVER, mean")
    head.get_by_role("button").click()
    scores = [0.0625 + 0.1 * number for number in range(4)]
    assert opened.texts("Measures and costs", "CLEVER, mean") == [
        *(f"{float(f'{s:.3g}'):g}\n{float(f'{s - 0.01:.3g}'):g} to {float(f'{s + 0.01:.3g}'):g}" for s in scores),
        "–",
    ]
    assert opened.texts("Measures and costs", "Training")[0] == "10 min"
    assert set(opened.texts("Measures and costs", "Parameters")) == {"1,771,562"}
    assert table.locator("tbody tr.failed").inner_text().startswith("cascaded")
    assert table.locator("thead th").count() == 6  # nothing was measured of the others, and there is one data set
