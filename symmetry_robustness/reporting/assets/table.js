// Tables that can be sorted and filtered; rows appear some at a time, so that thousands cost nothing.

const PAGE = 25;
const PAPER = 200; // rows that are printed
const collator = new Intl.Collator("en", { numeric: true });

/** Order of two values; what is missing comes last in either direction. */
function compare(a, b, direction) {
  const missing = (value) => value == null || Number.isNaN(value);
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  return direction * (typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b));
}

/**
 * A table with its controls.
 *
 * columns(rows): the columns for the rows that are shown, each {title, value(row), cell(row)?, number?, explain?}.
 * facets: {title: row => value}, a choice for each that has more than one value.
 * status(row): "failed", "warned" or "passed" marks the row; may be left out.
 */
function dataTable({ caption, rows, columns, facets = {}, status = () => "passed", sort = null }) {
  const state = { sort: sort ?? { title: null, direction: 1 }, text: "", chosen: {}, shown: PAGE };
  const count = el("p", { class: "count", role: "status" });
  const head = el("thead");
  const body = el("tbody");
  const more = el("button", { type: "button", onclick: () => showMore(PAGE) }, "Show more");
  const all = el("button", { type: "button", onclick: () => showMore(Infinity) }, "Show all");
  const unprinted = el("span");
  const table = el("table", {}, el("caption", { class: "hidden" }, caption), head, body);
  const search = el("input", {
    type: "search",
    "aria-label": `Filter ${caption.toLowerCase()} by text`,
    placeholder: "Filter by text",
    oninput: (event) => update({ text: event.target.value.toLowerCase() }),
  });
  const selects = Object.entries(facets).flatMap(([title, of]) => {
    const values = [...new Set(rows.map(of).filter((value) => value != null))].sort(collator.compare);
    if (values.length < 2) return [];
    const options = [["", `Any ${title}`], ...values.map((value) => [value, String(value)])];
    return choice(title, options, "", (value) => update({ chosen: { ...state.chosen, [title]: value } }));
  });
  const texts = new Map();

  function textOf(row) {
    if (!texts.has(row)) texts.set(row, columns([row]).map((column) => String(column.value(row))).join(" ").toLowerCase());
    return texts.get(row);
  }
  function matching() {
    const wanted = Object.entries(state.chosen).filter(([, value]) => value !== "");
    const words = state.text.split(/\s+/).filter(Boolean);
    return rows.filter(
      (row) =>
        wanted.every(([title, value]) => String(facets[title](row)) === value) &&
        words.every((word) => textOf(row).includes(word)),
    );
  }
  function update(change) {
    Object.assign(state, { shown: PAGE }, change);
    draw();
  }
  function showMore(number) {
    const first = body.rows.length;
    state.shown += number;
    draw();
    body.rows[first]?.querySelector("a, button")?.focus();
  }
  function sortBy(title) {
    const turned = state.sort.title === title ? -state.sort.direction : 1;
    update({ sort: { title, direction: turned } });
    head.querySelector(`[aria-sort="${turned > 0 ? "ascending" : "descending"}"] button`)?.focus();
  }
  function header(column) {
    const sorted = column.title === state.sort.title;
    const direction = state.sort.direction > 0 ? "ascending" : "descending";
    const arrow = el("span", { class: "arrow", "aria-hidden": "true" }, sorted ? (state.sort.direction > 0 ? "▲" : "▼") : "↕");
    return el(
      "th",
      { scope: "col", class: column.number && "number", "aria-sort": sorted ? direction : null, title: column.explain },
      el("button", { type: "button", onclick: () => sortBy(column.title) }, column.title, arrow),
    );
  }
  function line(row, shown) {
    const cells = shown.map((column, index) => {
      const content = column.cell ? column.cell(row) : (column.value(row) ?? "–");
      return el(index ? "td" : "th", { scope: index ? null : "row", class: column.number ? "number" : column.kind }, content);
    });
    return el("tr", { class: status(row) }, cells);
  }
  function draw() {
    const found = matching();
    const shown = columns(found);
    const by = shown.find((column) => column.title === state.sort.title);
    const ordered = by ? [...found].sort((a, b) => compare(by.value(a), by.value(b), state.sort.direction)) : found;
    const visible = ordered.slice(0, printing ? Math.max(state.shown, PAPER) : state.shown);
    const rest = found.length - visible.length;
    head.replaceChildren(el("tr", {}, shown.map(header)));
    body.replaceChildren(...visible.map((row) => line(row, shown)));
    const some = visible.length < found.length ? `${visible.length.toLocaleString("en")} of ` : "";
    count.textContent = `${some}${plural(found.length, "row")}${found.length < rows.length ? ` (${rows.length.toLocaleString("en")} without filter)` : ""}`;
    more.hidden = all.hidden = rest === 0;
    unprinted.textContent = rest && printing ? `${plural(rest, "more row")} not printed: filter the table before, or see the tables written beside the page.` : "";
  }
  draw();
  whenPrinting(draw);
  const scroller = el("div", { class: "scroller", tabindex: "0", role: "group", "aria-label": `${caption}, table` }, table);
  const controls = rows.length > 1 && el("div", { class: "controls" }, search, selects);
  const element = el("div", { class: "data-table" }, controls, count, scroller, el("p", { class: "more" }, unprinted, more, " ", all));
  return element;
}

/** A small table without controls, e.g. the numbers behind a chart. */
function plainTable(caption, titles, rows, numbers = true) {
  const cell = (text, index) => el(index ? "td" : "th", { scope: index ? null : "row", class: index && numbers ? "number" : null }, text);
  const titled = titles.map((title, index) => el("th", { scope: "col", class: index && numbers ? "number" : null }, title));
  const lines = rows.map((row) => el("tr", {}, row.map(cell)));
  const table = el("table", {}, el("caption", { class: "hidden" }, caption), el("thead", {}, el("tr", {}, titled)), el("tbody", {}, lines));
  return el("div", { class: "scroller", tabindex: "0", role: "group", "aria-label": caption }, table);
}
