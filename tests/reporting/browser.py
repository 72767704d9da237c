"""A page of a report that is open in a browser."""

from pathlib import Path

from playwright.sync_api import BrowserContext, Locator


class Opened:
    """A page that is open, with everything that it asked for and complained of."""

    def __init__(self, context: BrowserContext, file: Path) -> None:
        self.page = context.new_page()
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.address = file.as_uri()
        self.go("")

    def go(self, fragment: str) -> None:
        self.page.goto(self.address + fragment)
        self.page.wait_for_selector("html[data-ready]")
        if fragment.startswith("#/run/"):
            self.page.locator("#run h2").wait_for()

    def drawn(self) -> None:
        """Wait until every chart that can be seen is drawn."""
        self.until(
            "[...document.querySelectorAll('.plot')].filter((p) => p.offsetParent).every((p) => p.matches('.drawn'))"
        )

    def until(self, condition: str) -> None:
        """Wait for a condition; Playwright's own waiting evaluates texts, which the page does not allow."""
        for _ in range(400):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise TimeoutError(condition)

    def rows(self, table: str) -> Locator:
        """The rows of a table that are shown."""
        return self.page.get_by_role("group", name=table, exact=True).locator("tbody tr:not([hidden])")

    def texts(self, table: str, column: str) -> list[str]:
        """The first line in a column of a table, as far as it is shown."""
        head = self.page.get_by_role("group", name=table, exact=True).locator("thead th")
        at = [title.rstrip("↕▲▼") for title in head.all_inner_texts()].index(column) + 1
        return [text.split("\n")[0] for text in self.rows(table).locator(f"> :nth-child({at})").all_inner_texts()]

    def choose(self, name: str, label: str) -> None:
        """Another data set, attack, strength or protocol."""
        self.page.locator("#answer").get_by_label(name, exact=True).select_option(label=label)
