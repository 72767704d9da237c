"use strict";
// Chooses the question, sorts and filters tables, draws curves, opens runs. Numbers come rounded, and texts worded, from Python.

const data = JSON.parse(document.getElementById("data").textContent);
const SIGNS = { failed: "✕", warned: "▲", passed: "✓", unchecked: "–" };
const GLYPHS = { circle: "●", square: "■", diamond: "◆", "triangle-up": "▲", "triangle-down": "▼", cross: "✚", x: "✖" };
const SHOWN = 25; // rows of a table, before more are asked for
const PRINTED = 200;
const SWITCHES = 24; // networks that can be drawn, the best first
let printing = false;

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
function el(tag, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children.filter((child) => child != null && child !== false));
  return node;
}
const hiddenText = (words, className = "") => el("span", { className, ariaHidden: "true" }, words);
const badge = ([status, words]) => el("span", { className: `badge ${status}` }, hiddenText(`${SIGNS[status]} `), words);
const text = (number) => number?.toFixed(1) ?? "–";
const interval = ([, low, high]) => (low == null ? "unknown" : `${text(low)} to ${text(high)}`);
function look(at) {
  const [color, symbol] = data.looks[at % data.looks.length];
  const [, other] = data.looks[(at + Math.floor(at / data.looks.length)) % data.looks.length]; // where colours repeat
  return { color, symbol: at < data.looks.length ? symbol : other };
}

/** Text that is compressed in an element of the page. */
async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

// Tables: rows that do not match, or that nobody asked for yet, are hidden.

const tables = new Map(); // id -> refresh
function control(box) {
  const [[search], [table], [count], [more, everything], [rest]] = ["input", "table", ".count", ".more button", ".rest"].map((one) => all(one, box));
  const view = { limit: SHOWN, at: -1, direction: 1 };
  const collator = new Intl.Collator("en", { numeric: true });
  const valueOf = (cell) => {
    const words = cell.firstChild?.textContent.trim() ?? "";
    return !cell.matches(".number") ? words : parseFloat(words.replace(/,/g, "").replace("−", "-"));
  };
  const missing = (value) => value === "" || value === "–" || Number.isNaN(value);
  const order = (a, b) => missing(a) - missing(b) || view.direction * (typeof a === "number" ? a - b || 0 : collator.compare(a, b));
  const refresh = () => {
    let rows = [...table.tBodies[0].rows];
    const heads = all("thead th", table);
    if (view.at >= 0 && view.at < heads.length) {
      const values = new Map(rows.map((row) => [row, valueOf(row.cells[view.at])]));
      table.tBodies[0].append(...rows.sort((a, b) => order(values.get(a), values.get(b))));
    }
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = words.map((word) => (/^\d+$/.test(word) ? ` ${word} ` : word)); // a number stands alone: 2 is not 12
    const textOf = (row) => (row.text ??= ` ${[...row.cells].map((cell) => cell.textContent).join(" ")} `.toLowerCase());
    const found = rows.filter((row) => wanted.every((word) => textOf(row).includes(word)));
    const limit = Math.max(view.limit, printing ? PRINTED : 0);
    rows.forEach((row) => (row.hidden = true));
    found.slice(0, limit).forEach((row) => (row.hidden = false));
    const left = Math.max(0, found.length - limit);
    const [shown, matching, whole] = [found.length - left, found.length, rows.length].map((number) => number.toLocaleString("en"));
    count.textContent = `${left ? `${shown} of ` : ""}${matching} row${matching === "1" ? "" : "s"}${matching === whole ? "" : ` (${whole} without filter)`}`;
    count.parentElement.hidden = rows.length < 6;
    more.hidden = everything.hidden = !left;
    rest.textContent = printing && left ? `${left.toLocaleString("en")} more rows are not printed; the tables written beside the page have them.` : "";
    heads.forEach((head, at) => {
      const sorted = at === view.at ? view.direction : 0;
      head.ariaSort = sorted ? (sorted > 0 ? "ascending" : "descending") : null;
      head.querySelector(".arrow").textContent = ["▼", "↕", "▲"][1 + sorted];
    });
  };
  const show = (limit) => {
    const before = all("tbody tr:not([hidden])", table).length;
    refresh((view.limit = limit));
    all("tbody tr:not([hidden])", table)[before]?.querySelector("a")?.focus();
  };
  search.addEventListener("input", () => show(SHOWN));
  more.addEventListener("click", () => show(view.limit + SHOWN));
  everything.addEventListener("click", () => show(Infinity));
  table.tHead.addEventListener("click", ({ target }) => {
    const head = target.closest("th");
    Object.assign(view, { at: head.cellIndex, direction: view.at === head.cellIndex ? -view.direction : 1 });
    refresh();
  });
  tables.set(box.id || box, refresh);
  refresh();
}
/** Other rows of a table: each a status and cells, each a kind and what is in it. */
function fill(id, rows) {
  const lines = rows.map(([className, ...cells]) =>
    el("tr", { className }, ...cells.map(([kind, ...content], at) => el(at ? "td" : "th", at ? { className: kind } : { scope: "row" }, ...content))),
  );
  document.querySelector(`#${id} tbody`).replaceChildren(...lines);
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
  attack ??= Math.max(0, attacks.findIndex((one) => one.name === before.name));
  const same = attacks[attack].places.indexOf(before.places[state.strength]);
  strength ??= same < 0 ? Math.min(first, attacks[attack].places.length - 1) : same;
  Object.assign(state, { question, attack, strength });
  all(".question select").forEach(offer);
  const answer = document.getElementById(`answer-${question}-${attack}-${strength}`);
  document.getElementById("said").replaceChildren(answer.content.cloneNode(true));
  showNetworks();
  showRuns();
}
function offer(select) {
  const numbered = (names) => names.map((name, at) => [at, name]);
  const [choices, chosen] = {
    data: [[...new Set(data.questions.map((one) => one.data))].map((name) => [name, name]), asked().data],
    protocol: [numbered(data.questions.map((one) => one.name)).filter(([at]) => data.questions[at].data === asked().data), state.question],
    attack: [numbered(asked().attacks.map((one) => one.name)), state.attack],
    strength: [numbered(attacked().places), state.strength],
  }[select.name];
  select.replaceChildren(...choices.map(([value, words]) => el("option", { value, selected: value === chosen }, words)));
}
document.addEventListener("change", ({ target: { name, value, checked } }) => {
  const on = (data_) => data.order.filter((at) => data.questions[at].data === data_);
  if (name === "data") ask(on(value).find((at) => data.questions[at].name === asked().name) ?? on(value)[0]);
  if (name === "protocol") ask(Number(value));
  if (name === "attack") ask(state.question, Number(value));
  if (name === "strength") ask(state.question, state.attack, Number(value));
  if (name === "network") drawCurves(drawn[checked ? "add" : "delete"](Number(value)));
});
/** Networks best first with bars, and their numbers at all strengths; the curves below. */
function showNetworks() {
  const { rows, places } = attacked();
  const { networks } = asked();
  const at = 1 + state.strength;
  const last = ([network]) => networks[network][1] === "failed";
  const ranked = rows.filter((one) => one[at]).sort((a, b) => last(a) - last(b) || b[at][0] - a[at][0]);
  const end = Math.max(1, ...ranked.flatMap((one) => one[at]));
  const titles = ["Network", "Accuracy", "% correct", "95 % interval", "Seeds", "Checks", ...places];
  const head = (title, column) => el("th", { scope: "col", className: ["", "bar", "number", "number wide", "number wide", ""][column] ?? "number" }, el("button", { type: "button" }, title, hiddenText("", "arrow")));
  document.querySelector("#ranking thead tr").replaceChildren(...titles.map(head));
  fill("ranking", ranked.map(([network, ...found]) => {
    const [seeds, ...status] = networks[network];
    const cells = found.map((numbers) => ["number", text(numbers?.[0]), numbers && el("small", {}, interval(numbers))]);
    const here = found[state.strength];
    return [status[0], ["", data.networks[network]], ["bar", bar(here, end, network)], ["number", text(here[0])], ["number wide", interval(here)], ["number wide", seeds], ["", badge(status)], ...cells];
  }));
  const others = asked().attacks.flatMap((attack) => attack.rows.map(([network]) => network));
  switches([...new Set([...ranked.map(([network]) => network), ...others])]);
}
function bar([value, low, high], end, network) {
  const part = (className, from, to) => {
    const node = el("i", { className });
    Object.assign(node.style, { left: `${(100 * from) / end}%`, width: `${(100 * (to - from)) / end}%` });
    return node;
  };
  const filled = part("fill", 0, value);
  filled.style.background = look(network).color;
  return el("span", { className: "track", ariaHidden: "true" }, filled, low != null && part("whisker", low, high));
}
function showRuns() {
  const { runs } = data.start ? attacked() : { runs: {} };
  fill("by-run", data.runs.map(([name, network, seed, set, clean], at) => {
    const [value, error] = runs[at]?.[state.strength] ?? [];
    const status = asked()?.checks[at] ?? ["unchecked", "–"];
    const link = el("a", { href: `#/run/${encodeURIComponent(name)}` }, `${network}, seed ${seed}`);
    return [status[0], ["", link], ["", set], ["number", seed], ["number", text(value), error != null && el("small", {}, `± ${text(error)}`)], ["number", text(clean)], ["", badge(status)]];
  }));
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
  const field = document.querySelector(".switches");
  const offered = networks.slice(0, SWITCHES);
  const names = [...offered].sort().join();
  if (field.dataset.names !== names) {
    field.dataset.names = names;
    drawn = new Set(offered.slice(0, data.looks.length));
    const boxes = offered.map((network) => {
      const [, ...status] = asked().networks[network];
      const glyph = hiddenText(GLYPHS[look(network).symbol], "glyph");
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
  const series = ({ rows }) => rows.filter(([network]) => drawn.has(network)).map(([network, ...found]) => {
    const [y, low, high] = [0, 1, 2].map((at) => found.map((one) => one?.[at] ?? null));
    return { name: data.networks[network], ...look(network), checks: networks[network].slice(1), y, low, high };
  });
  const charts = attacks.filter(({ x }) => x.length > 1).map((attack) => ({ title: `Accuracy under ${attack.name}`, ...attack, xlabel: attack.label, ylabel: "accuracy (%)", percent: true, series: series(attack) }));
  const box = document.querySelector("#curves .charts");
  const figure = () => el("figure", { className: "chart" }, el("figcaption"), el("div", { className: "plot", role: "img" }));
  if (box.children.length !== charts.length) box.replaceChildren(...charts.map(figure));
  charts.forEach((chart, at) => {
    const [caption, plot] = box.children[at].children;
    caption.textContent = chart.title;
    plot.ariaLabel = `${chart.title}. The table above has the numbers.`;
    draw(plot, chart);
  });
}
/** The band and the line of one series. */
function traces({ x, places, xlabel, percent }, { name, y, low, high, error, color, symbol, checks: [status, words] = [] }) {
  const plain = String(name).replace(/&/g, "&amp;").replace(/</g, "&lt;");
  const flagged = /failed|warned/.test(status); // hollow and dotted
  const reach = (sign) => y.map((value, at) => (value == null || error[at] == null ? null : Math.min(100, Math.max(0, value + sign * 1.96 * error[at]))));
  const [lows, highs] = low ? [low, high] : error ? [reach(-1), reach(1)] : [[], []];
  const known = [...lows.keys()].filter((at) => lows[at] != null);
  const around = (ends, back) => [...known.map((at) => ends[at]), ...known.map((at) => back[at]).reverse()];
  const doubt = (at) => (low ? ` (95 %: ${interval([0, low[at], high[at]])})` : error ? ` ± ${text(error[at])}` : "");
  const hover = y.map((value, at) => `${plain}: ${percent ? `${text(value)} %` : value}${doubt(at)}<br>${places?.[at] ?? `${xlabel} ${x[at]}`}${flagged ? `<br>soundness checks: ${words}` : ""}`);
  const band = { x: around(x, x), y: around(highs, lows), mode: "none", fill: "toself", fillcolor: `${color}26`, hoverinfo: "skip", showlegend: false };
  const marker = { color, size: x.length > 40 ? 4 : 8, symbol: flagged ? `${symbol}-open` : symbol };
  const line = { x, y, name: plain, text: hover, hovertemplate: "%{text}<extra></extra>", mode: "lines+markers", connectgaps: true, cliponaxis: false, line: { color, dash: flagged ? "dot" : "solid" }, marker };
  return known.length ? [band, line] : [line];
}
async function draw(plot, chart) {
  const Plotly = await (library ??= load());
  if (!plot.clientWidth) return;
  const { x, places, xlabel, ylabel, percent, series } = chart;
  const axis = { automargin: true, fixedrange: true, rangemode: "tozero", nticks: 7 };
  const ticks = places && x.length < 10 ? { tickvals: x, ticktext: places.map((place) => place.match(/[\d./]+/g)?.at(-1) ?? place) } : {};
  const layout = {
    xaxis: { ...axis, ...ticks, title: { text: xlabel } },
    yaxis: { ...axis, title: { text: ylabel }, ...(percent && { range: [0, 102] }) },
    margin: { l: 50, r: 12, t: 10, b: 44 }, height: 300, font: { family: "inherit", size: 13 }, legend: { orientation: "h", y: -0.25 },
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", hovermode: "closest", dragmode: false, showlegend: !plot.closest("#curves"),
  };
  const looks = series.map((one, at) => ({ ...look(at), ...one }));
  await Plotly.react(plot, looks.flatMap((one) => traces(chart, one)), layout, { displayModeBar: false, responsive: true });
  const fit = (svg) => svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`);
  const scalable = () => all(".main-svg", plot).forEach(fit); // to the width of paper
  if (!plot.matches(".drawn")) plot.on("plotly_afterplot", scalable);
  scalable();
  plot.classList.add("drawn");
}

// Pages of runs, and the address.

const [report, article] = ["report", "run"].map((id) => document.getElementById(id));
let scrolled = 0; // where the report was left
let followed = false; // whether a link led here, and not the browser's Back
async function route() {
  const [, kind, rest] = location.hash.match(/^#\/(run|ask)\/(.*)$/) ?? [];
  if (kind === "ask") ask(...rest.split("-").map(Number));
  const wanted = kind === "run" && decodeURIComponent(rest);
  const at = data.runs.findIndex(([name]) => name === wanted);
  if (wanted && article.hidden) scrolled = window.scrollY;
  const none = [el("h2", {}, "No such run"), el("p", {}, wanted), el("a", { href: "#runs" }, "← All runs")];
  if (wanted && at < 0) article.replaceChildren(...none);
  if (at >= 0) article.innerHTML = await unpack(`run-${at}`);
  const back = !wanted && !article.hidden;
  article.hidden = !wanted;
  report.hidden = Boolean(wanted);
  document.title = [article.querySelector("h2"), document.querySelector("h1")][wanted ? 0 : 1].textContent;
  if (wanted) {
    window.scrollTo(0, 0);
    article.focus({ preventScroll: true });
    all("[data-chart]", article).forEach((plot) => draw(plot, JSON.parse(plot.dataset.chart)));
  } else if (kind === "ask") document.getElementById("answer").scrollIntoView();
  else if (back && followed) document.getElementById(location.hash.slice(1))?.scrollIntoView();
  else if (back) window.scrollTo(0, scrolled);
  followed = false;
}
document.addEventListener("click", ({ target }) => (followed = target.closest("a") !== null));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
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
