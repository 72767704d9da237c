"use strict";
// Chooses the question, sorts and filters tables, draws curves, opens runs. Numbers come rounded, texts worded, from Python.

const data = JSON.parse(document.getElementById("data").textContent);
const GLYPHS = { circle: "●", square: "■", diamond: "◆", "triangle-up": "▲", "triangle-down": "▼", cross: "✚", x: "✖" };
const [SHOWN, PRINTED] = [25, 200]; // rows of a table, before all are asked for, and on paper
const SWITCHES = 24; // networks that can be drawn, the best first
let printing = false;

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);
function el(tag, attributes, ...children) {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children.filter((child) => child != null && child !== false));
  return node;
}
const badge = ([status, words]) => el("span", { className: `badge ${status}` }, words);
const text = (number) => number?.toFixed(1) ?? "–";
const interval = (low, high) => (low == null ? "unknown" : `${text(low)} to ${text(high)}`);
const numeral = (number) => number.toLocaleString("en");
function look(at) {
  const { length } = data.looks;
  const [[color], [, symbol]] = [at, at + Math.floor(at / length)].map((place) => data.looks[place % length]); // a colour again has another symbol
  return { color, symbol };
}

/** Text that is compressed in an element of the page. */
async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

// Tables: rows that do not match, or that nobody asked for yet, are hidden.

const tables = new Map(); // id -> refresh
function control(box) {
  const [search, table, count, more, rest] = ["input", "table", ".count", ".more button", ".rest"].map((name) => one(name, box));
  const view = { limit: SHOWN, at: -1, direction: 1 };
  const collator = new Intl.Collator("en", { numeric: true });
  const valueOf = (cell) => {
    const words = cell.firstChild?.textContent.trim() ?? "";
    return cell.matches(".number") ? parseFloat(words.replace(/,/g, "").replace("−", "-")) : words;
  };
  const missing = (value) => value === "" || value === "–" || Number.isNaN(value);
  const order = (a, b) => missing(a) - missing(b) || view.direction * (typeof a === "number" ? a - b || 0 : collator.compare(a, b));
  const textOf = (row) => (row.text ??= ` ${[...row.cells].map((cell) => cell.textContent).join(" ")} `.toLowerCase());
  const refresh = () => {
    let rows = [...table.tBodies[0].rows];
    const heads = all("thead th", table);
    if (heads[view.at]) {
      const values = new Map(rows.map((row) => [row, valueOf(row.cells[view.at])]));
      table.tBodies[0].append(...rows.sort((a, b) => order(values.get(a), values.get(b))));
    }
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = words.map((word) => (/^\d+$/.test(word) ? ` ${word} ` : word)); // a number stands alone: 2 is not 12
    const found = rows.filter((row) => wanted.every((word) => textOf(row).includes(word)));
    const limit = Math.max(view.limit, printing ? PRINTED : 0);
    const left = Math.max(0, found.length - limit);
    rows.forEach((row) => (row.hidden = true));
    found.slice(0, limit).forEach((row) => (row.hidden = false));
    const filtered = found.length < rows.length ? ` (${numeral(rows.length)} without filter)` : "";
    count.textContent = `${left ? `${limit} of ` : ""}${numeral(found.length)} row${found.length === 1 ? "" : "s"}${filtered}`;
    count.parentElement.hidden = rows.length < 6;
    more.hidden = !left;
    rest.textContent = printing && left ? `${numeral(left)} more rows are not printed; the tables written beside the page have them.` : "";
    heads.forEach((head, at) => (head.ariaSort = at === view.at ? (view.direction > 0 ? "ascending" : "descending") : null));
  };
  search.addEventListener("input", refresh);
  more.addEventListener("click", () => {
    refresh((view.limit = Infinity));
    one("tbody a", table)?.focus();
  });
  table.tHead.addEventListener("click", ({ target }) => {
    const { cellIndex: at } = target.closest("th");
    refresh(Object.assign(view, { at, direction: view.at === at ? -view.direction : 1 }));
  });
  tables.set(box.id || box, refresh);
  refresh();
}
/** Other rows of a table: each a status and cells, each a kind and what is in it. */
function fill(id, rows) {
  const cell = ([kind, ...content], at) => el(at ? "td" : "th", at ? { className: kind } : { scope: "row" }, ...content);
  one(`#${id} tbody`).replaceChildren(...rows.map(([className, ...cells]) => el("tr", { className }, ...cells.map(cell))));
  tables.get(id)();
}

// The question: which data, attack, strength and protocol; all that depends on it is shown anew.

const state = { question: 0, attack: 0, strength: 0 };
const asked = () => data.questions[state.question];
const attacked = () => asked().attacks[state.attack];
/** Ask another question; of what is not given the present choice stays where there is such a one. */
function ask(question, attack, strength) {
  const before = attacked();
  const { attacks, first } = data.questions[question];
  attack ??= Math.max(0, attacks.findIndex(({ name }) => name === before.name));
  const same = attacks[attack].places.indexOf(before.places[state.strength]);
  strength ??= same < 0 ? Math.min(first, attacks[attack].places.length - 1) : same;
  Object.assign(state, { question, attack, strength });
  all(".question select").forEach(offer);
  const answer = document.getElementById(`answer-${question}-${attack}-${strength}`);
  one("#said").replaceChildren(answer.content.cloneNode(true));
  showNetworks();
  showRuns();
}
function offer(select) {
  const numbered = (names) => names.map((name, at) => [at, name]);
  const [choices, chosen] = {
    data: [[...new Set(data.questions.map((question) => question.data))].map((name) => [name, name]), asked().data],
    protocol: [numbered(data.questions.map(({ name }) => name)).filter(([at]) => data.questions[at].data === asked().data), state.question],
    attack: [numbered(asked().attacks.map(({ name }) => name)), state.attack],
    strength: [numbered(attacked().places), state.strength],
  }[select.name];
  select.replaceChildren(...choices.map(([value, words]) => el("option", { value, selected: value === chosen }, words)));
}
document.addEventListener("change", ({ target: { name, value, checked } }) => {
  const on = data.order.filter((at) => data.questions[at].data === value); // the same protocol there, or the first one
  if (name === "data") ask(on.find((at) => data.questions[at].name === asked().name) ?? on[0]);
  if (name === "protocol") ask(Number(value));
  if (name === "attack") ask(state.question, Number(value));
  if (name === "strength") ask(state.question, state.attack, Number(value));
  if (name === "network") drawCurves(drawn[checked ? "add" : "delete"](Number(value)));
});
/** Networks best first with bars, and their numbers at all strengths; the curves below. */
function showNetworks() {
  const [{ networks, attacks }, { rows, places }, at] = [asked(), attacked(), 1 + state.strength];
  const last = ([network]) => networks[network][1] === "failed";
  const ranked = rows.filter((row) => row[at]).sort((a, b) => last(a) - last(b) || b[at][0] - a[at][0]);
  const end = Math.max(1, ...ranked.flatMap((row) => row[at]));
  const kinds = ["", "bar", "number", "number wide", "number wide", "", ...places.map(() => "number")];
  const titles = ["Network", "Accuracy", "% correct", "95 % interval", "Seeds", "Checks", ...places];
  const head = (title, column) => el("th", { scope: "col", className: kinds[column] }, el("button", { type: "button" }, title));
  one("#ranking thead tr").replaceChildren(...titles.map(head));
  const line = ([network, ...found]) => {
    const [[seeds, ...status], [value, low, high]] = [networks[network], found[state.strength]];
    const track = el("span", { className: "track", ariaHidden: "true" });
    const ends = { value, low: low ?? value, high: high ?? value };
    Object.entries(ends).forEach(([name, share]) => track.style.setProperty(`--${name}`, `${(100 * share) / end}%`));
    track.style.setProperty("--color", look(network).color);
    const others = found.map((numbers) => [text(numbers?.[0]), numbers && el("small", {}, interval(numbers[1], numbers[2]))]);
    const cells = [[data.networks[network]], [track], [text(value)], [interval(low, high)], [seeds], [badge(status)], ...others];
    return [status[0], ...cells.map((content, column) => [kinds[column], ...content])];
  };
  fill("ranking", ranked.map(line));
  const others = attacks.flatMap((attack) => attack.rows.map(([network]) => network));
  switches([...new Set([...ranked.map(([network]) => network), ...others])]);
}
function showRuns() {
  const { runs } = data.start ? attacked() : { runs: {} };
  const line = ([name, network, seed, set, clean], at) => {
    const [value, error] = runs[at]?.[state.strength] ?? [];
    const status = asked()?.checks[at] ?? ["unchecked", "–"];
    const link = el("a", { href: `#/run/${encodeURIComponent(name)}` }, `${network}, seed ${seed}`);
    const found = ["number", text(value), error != null && el("small", {}, `± ${text(error)}`)];
    return [status[0], ["", link], ["wide", set], ["number", seed], found, ["number", text(clean)], ["", badge(status)]];
  };
  fill("by-run", data.runs.map(line));
}

// Curves.

let library;
let drawn = new Set(); // networks
async function load() {
  await new Promise((done) => setTimeout(done, 1000)); // 4.6 MiB keep the browser busy: the answer comes first
  document.head.append(el("script", { textContent: await unpack("plotly") }));
  return window.Plotly;
}
/** A switch for each network, the best of them on. */
function switches(networks) {
  const [field, offered] = [one(".switches"), networks.slice(0, SWITCHES)];
  const names = [...offered].sort().join();
  if (field.dataset.names !== names) {
    field.dataset.names = names;
    drawn = new Set(offered.slice(0, data.looks.length));
    const boxes = offered.map((network) => {
      const [, ...status] = asked().networks[network];
      const glyph = el("span", { className: "glyph", ariaHidden: "true" }, GLYPHS[look(network).symbol]);
      glyph.style.color = look(network).color;
      const box = el("input", { type: "checkbox", name: "network", value: network, checked: drawn.has(network) });
      return el("label", {}, box, glyph, data.networks[network], /failed|warned/.test(status[0]) && badge(status));
    });
    const rest = networks.length - offered.length;
    field.replaceChildren(field.firstElementChild, ...boxes, rest > 0 ? `and ${rest} more in the table above` : "");
  }
  drawCurves();
}
function drawCurves() {
  const { attacks, networks } = asked();
  const series = ([network, ...found]) => {
    const [y, low, high] = [0, 1, 2].map((at) => found.map((numbers) => numbers?.[at] ?? null));
    return { name: data.networks[network], ...look(network), checks: networks[network].slice(1), y, low, high };
  };
  const shown = attacks.filter(({ x }) => x.length > 1);
  const box = one("#curves .charts");
  const figure = () => el("figure", { className: "chart" }, el("figcaption"), el("div", { className: "plot", role: "img" }));
  if (box.children.length !== shown.length) box.replaceChildren(...shown.map(figure));
  shown.forEach(({ name, label, rows, x, places }, at) => {
    const [caption, plot] = box.children[at].children;
    caption.textContent = `Accuracy under ${name}`;
    plot.ariaLabel = `Accuracy under ${name}. The table above has the numbers.`;
    const lines = rows.filter(([network]) => drawn.has(network)).map(series);
    draw(plot, { x, places, xlabel: label, ylabel: "accuracy (%)", percent: true, series: lines });
  });
}
/** The band and the line of one series. */
function traces({ x, places, xlabel, percent }, { name, y, low, high, color, symbol, checks: [status, words] = [] }) {
  const plain = String(name).replace(/&/g, "&amp;").replace(/</g, "&lt;");
  const flagged = /failed|warned/.test(status); // hollow and dotted
  const known = [...(low ?? []).keys()].filter((at) => low[at] != null);
  const around = (ends, back) => [...known.map((at) => ends[at]), ...known.map((at) => back[at]).reverse()];
  const hover = y.map((value, at) => {
    const number = percent ? `${text(value)} %` : value;
    const ends = low ? ` (95 %: ${interval(low[at], high[at])})` : "";
    return `${plain}: ${number}${ends}<br>${places?.[at] ?? `${xlabel} ${x[at]}`}${flagged ? `<br>soundness checks: ${words}` : ""}`;
  });
  const line = {
    x, y, name: plain, text: hover, hovertemplate: "%{text}<extra></extra>", mode: "lines+markers", connectgaps: true, cliponaxis: false,
    line: { color, dash: flagged ? "dot" : "solid" }, marker: { color, size: x.length > 40 ? 4 : 8, symbol: flagged ? `${symbol}-open` : symbol },
  };
  if (!known.length) return [line];
  const band = { mode: "none", fill: "toself", fillcolor: `${color}26`, hoverinfo: "skip", showlegend: false };
  return [{ x: around(x, x), y: around(high, low), ...band }, line];
}
async function draw(plot, chart) {
  const Plotly = await (library ??= load());
  if (!plot.clientWidth) return;
  const { x, places, xlabel, ylabel, percent, series } = chart;
  const keys = !plot.closest("#curves"); // where no switches name the lines
  const axis = { automargin: true, fixedrange: true, rangemode: "tozero", nticks: 7 };
  const ticks = places && x.length < 10 ? { tickvals: x, ticktext: places.map((place) => place.match(/[\d./]+/g)?.at(-1) ?? place) } : {};
  const layout = {
    xaxis: { ...axis, ...ticks, title: { text: xlabel } }, yaxis: { ...axis, title: { text: ylabel }, ...(percent && { range: [0, 102] }) },
    margin: { l: 50, r: 12, t: 10, b: keys ? 80 : 44 }, height: keys ? 340 : 300, showlegend: keys, legend: { orientation: "h", y: -0.3, yanchor: "top" },
    font: { family: "inherit", size: 13 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent", hovermode: "closest", dragmode: false,
  };
  const lines = series.flatMap((line, at) => traces(chart, { ...look(at), ...line }));
  await Plotly.react(plot, lines, layout, { displayModeBar: false, responsive: true });
  const fit = (svg) => svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`);
  const scalable = () => all(".main-svg", plot).forEach(fit); // to the width of paper
  if (!plot.matches(".drawn")) plot.on("plotly_afterplot", scalable);
  scalable(plot.classList.add("drawn"));
}

// Pages of runs, and the address.

const [report, article] = [one("#report"), one("#run")];
let scrolled = 0; // where the report was left
let followed = false; // whether a link led here, and not the browser's Back
async function route() {
  const name = location.hash.startsWith("#/run/") && decodeURIComponent(location.hash.slice(6));
  const at = data.runs.findIndex(([known]) => known === name);
  const back = !name && !article.hidden;
  if (name && article.hidden) scrolled = window.scrollY;
  if (at >= 0) article.innerHTML = await unpack(`run-${at}`);
  else if (name) article.replaceChildren(el("h2", {}, "No such run"), el("p", {}, name), el("a", { href: "#runs" }, "← All runs"));
  [article.hidden, report.hidden] = [!name, Boolean(name)];
  document.title = one(name ? "#run h2" : "h1").textContent;
  if (name) {
    window.scrollTo(0, 0);
    article.focus({ preventScroll: true });
    all("[data-chart]", article).forEach((plot) => draw(plot, JSON.parse(plot.dataset.chart)));
  } else if (back && followed) document.getElementById(location.hash.slice(1))?.scrollIntoView();
  else if (back) window.scrollTo(0, scrolled);
  followed = false;
}
document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  followed = link !== null;
  if (link?.dataset.ask) ask(...link.dataset.ask.split("-").map(Number));
  if (!link?.matches(".skip")) return;
  event.preventDefault();
  one("#main").focus();
});
window.addEventListener("hashchange", route);

// Paper: nothing can be opened there, so that everything is open, and as it was afterwards.
let closed = [];
for (const event of ["beforeprint", "afterprint"])
  window.addEventListener(event, () => {
    printing = event === "beforeprint";
    if (printing) closed = all("details:not([open])");
    closed.forEach((details) => (details.open = printing));
    tables.forEach((refresh) => refresh());
  });

all(".table").forEach(control);
data.start ? ask(...data.start) : showRuns();
route();
document.documentElement.dataset.ready = "yes";
