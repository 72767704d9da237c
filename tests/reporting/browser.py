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

    def draw(self) -> None:
        """Bring every chart into view and wait until it is drawn."""
        for plot in self.page.locator(".plot:visible").all():
            plot.scroll_into_view_if_needed()
        self.until(
            "[...document.querySelectorAll('.plot')].filter((p) => p.offsetParent).every((p) => p.matches('.drawn'))"
        )

    def until(self, condition: str) -> None:
        """Wait for a condition; Playwright's own waiting evaluates texts, which the page does not allow."""
        for _ in range(200):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise TimeoutError(condition)

    def table(self, name: str) -> Locator:
        return self.page.get_by_role("group", name=f"{name}, table", exact=True).locator("table")

    def texts(self, name: str, column: str) -> list[str]:
        """What stands in a column of a table, as far as it is shown."""
        table = self.table(name)
        titles = [title.rstrip("↕▲▼") for title in table.locator("thead th").all_inner_texts()]
        return table.locator(f"tbody tr > :nth-child({titles.index(column) + 1})").all_inner_texts()
