"use strict";
// Chooses the question, sorts and filters tables, draws curves, opens runs. All texts and numbers come from Python.

const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const GLYPHS = { circle: "●", square: "■", diamond: "◆", "triangle-up": "▲", "triangle-down": "▼", cross: "✚", x: "✖" };
const MARKS = { failed: "✕", warned: "▲", passed: "✓", unchecked: "–" };
const SHOWN = 25; // rows of a table, before more are asked for
const PRINTED = 200;
const SWITCHES = 24; // networks that can be drawn, the best first
let printing = false;

function el(tag, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children.filter((child) => child != null && child !== false));
  return node;
}
const text = (number) => (number == null ? "–" : number.toFixed(1));
const interval = ([, low, high]) => (low == null ? "unknown" : `${text(low)} to ${text(high)}`);
const badge = ([status, words]) => el("span", { className: `badge ${status}` }, el("span", { ariaHidden: "true" }, `${MARKS[status]} `), words);
const look = (network) => {
  const [color, symbol] = data.looks[network % data.looks.length];
  const turn = (network + Math.floor(network / data.looks.length)) % data.looks.length; // other marks where colours repeat
  return { color, symbol: network < data.looks.length ? symbol : data.looks[turn][1] };
};

/** Text that is compressed in an element of the page. */
async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

// Tables: rows that do not match, or that nobody asked for yet, are hidden.

const tables = new Map();
const collator = new Intl.Collator("en", { numeric: true });
const valueOf = (row, { at, number }) => {
  const cell = row.cells[at].dataset.sort ?? row.cells[at].textContent.trim();
  return number ? parseFloat(cell.replace(/,/g, "").replace("−", "-")) : cell === "–" ? null : cell;
};
function order(a, b, { number, direction }) {
  const missing = (value) => value == null || Number.isNaN(value);
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  return direction * (number ? a - b : collator.compare(a, b));
}
function control(box) {
  const [search] = all("input", box);
  const [table] = all("table", box);
  const [more, everything] = all(".more button", box);
  const view = { limit: SHOWN, by: null };
  const refresh = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...table.tBodies[0].rows];
    if (view.by) {
      const values = new Map(rows.map((row) => [row, valueOf(row, view.by)]));
      table.tBodies[0].append(...rows.sort((a, b) => order(values.get(a), values.get(b), view.by)));
    }
    const found = rows.filter((row) => words.every((word) => (row.dataset.text ??= row.textContent.toLowerCase()).includes(word)));
    const limit = printing ? Math.max(view.limit, PRINTED) : view.limit;
    rows.forEach((row) => (row.hidden = true));
    found.slice(0, limit).forEach((row) => (row.hidden = false));
    const left = Math.max(0, found.length - limit);
    const counted = (number) => number.toLocaleString("en");
    all(".count", box)[0].textContent = `${left ? `${counted(limit)} of ` : ""}${counted(found.length)} row${found.length === 1 ? "" : "s"}${found.length < rows.length ? ` (${counted(rows.length)} without filter)` : ""}`;
    all(".controls", box)[0].hidden = rows.length < 6;
    more.hidden = everything.hidden = !left;
    all(".unprinted", box)[0].textContent = printing && left ? `${counted(left)} more rows are not printed; the tables written beside the page have them.` : "";
    all("thead th", table).forEach((head, at) => {
      const direction = view.by?.at === at ? view.by.direction : 0;
      direction ? head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending") : head.removeAttribute("aria-sort");
      all(".arrow", head)[0].textContent = { 1: "▲", "-1": "▼", 0: "↕" }[direction];
    });
  };
  search.addEventListener("input", () => refresh((view.limit = SHOWN)));
  const show = (limit) => {
    const first = all("tbody tr:not([hidden])", table).length;
    refresh((view.limit = limit));
    all("tbody tr:not([hidden])", table)[first]?.querySelector("a")?.focus();
  };
  more.addEventListener("click", () => show(view.limit + SHOWN));
  everything.addEventListener("click", () => show(Infinity));
  table.tHead.addEventListener("click", ({ target }) => {
    const head = target.closest("button")?.parentElement;
    if (!head) return;
    const direction = view.by?.at === head.cellIndex ? -view.by.direction : 1;
    view.by = { at: head.cellIndex, number: head.matches(".number"), direction };
    refresh();
  });
  /** Other rows, and other columns [title, kind] if given; the order by a column stays where the column stays. */
  const fill = (rows, columns) => {
    if (columns) {
      const button = (title) => el("button", { type: "button" }, title, el("span", { className: "arrow", ariaHidden: "true" }));
      const heads = columns.map(([title, kind]) => el("th", { scope: "col", className: kind }, button(title)));
      if (view.by && table.tHead.textContent !== heads.map((head) => head.textContent + all(".arrow", head)[0].textContent).join("")) view.by = null;
      table.tHead.rows[0].replaceChildren(...heads);
    }
    table.tBodies[0].replaceChildren(...rows);
    refresh();
  };
  tables.set(box.id || box, { refresh, fill });
  refresh();
}
function row(status, cells) {
  const line = el("tr", { className: status });
  cells.forEach(([kind, ...content], at) => line.append(el(at ? "td" : "th", at ? { className: kind } : { scope: "row" }, ...content)));
  return line;
}

// The question: which data, attack, strength and protocol; everything that depends on it is shown anew.

const state = { question: 0, attack: 0, strength: 0 };
const here = () => data.questions[state.question];
const attackHere = () => here().attacks[state.attack];
function choose(question, attack, strength) {
  const before = { name: attackHere().name, place: attackHere().places[state.strength] };
  const { attacks, data: set } = data.questions[question];
  const same = attacks.findIndex((one) => one.name === before.name);
  attack ??= same >= 0 ? same : 0;
  const kept = attacks[attack].places.indexOf(before.place);
  strength ??= kept >= 0 ? kept : question === data.start[0] ? data.start[2] : data.questions[question].first;
  Object.assign(state, { question, attack, strength: Math.min(strength, attacks[attack].places.length - 1) });
  show(set);
}
function options(select) {
  const sets = [...new Set(data.questions.map((one) => one.data))];
  const index = (names) => names.map((name, at) => [at, name]);
  const protocols = index(data.questions.map((one) => one.name)).filter(([at]) => data.questions[at].data === here().data);
  const [list, chosen] = {
    data: [sets.map((name) => [name, name]), here().data],
    protocol: [protocols, state.question],
    attack: [index(here().attacks.map((one) => one.name)), state.attack],
    strength: [index(attackHere().places), state.strength],
  }[select.name];
  select.replaceChildren(...list.map(([value, words]) => el("option", { value, selected: value === chosen }, words)));
}
document.addEventListener("change", ({ target: { name, value, checked, id } }) => {
  if (name === "data") {
    // The same protocol on the other data if it has it.
    const others = data.questions.map((one, at) => [at, one]).filter(([, one]) => one.data === value);
    const [at] = others.find(([, one]) => one.name === here().name) ?? others.find(([at]) => at === data.best[value]) ?? others[0];
    choose(at);
  } else if (name === "protocol") choose(Number(value));
  else if (name === "attack") choose(state.question, Number(value));
  else if (name === "strength") choose(state.question, state.attack, Number(value));
  else if (name === "network") {
    checked ? drawn.add(Number(value)) : drawn.delete(Number(value));
    drawCurves();
  }
});
function show() {
  const { networks, checks, attacks } = here();
  const { rows, places, runs } = attackHere();
  all(".question select").forEach(options);
  const said = document.getElementById(`answer-${state.question}-${state.attack}-${state.strength}`);
  document.getElementById("said").replaceChildren(said.content.cloneNode(true));
  const aside = (network) => networks[network][1] === "failed";
  const ranked = rows.filter((one) => one[1 + state.strength]).sort((a, b) => aside(a[0]) - aside(b[0]) || b[1 + state.strength][0] - a[1 + state.strength][0]);
  const end = Math.max(1, ...ranked.map((one) => Math.max(...one[1 + state.strength])));
  tables.get("ranking").fill(
    ranked.map(([network, ...numbers]) => {
      const [seeds, ...status] = networks[network];
      const found = numbers[state.strength];
      return row(status[0], [["", mark(network), data.networks[network]], ["bar", bar(found, end, look(network).color)], ["number", text(found[0])], ["number wide", interval(found)], ["number wide", seeds], ["", badge(status)]]);
    }),
  );
  const columns = [["Network", ""], ["Seeds", "number"], ["Checks", ""], ...places.map((place) => [place, "number"])];
  const lines = rows.map(([network, ...numbers]) => {
    const [seeds, ...status] = networks[network];
    const cells = numbers.map((found) => ["number", text(found?.[0]), found && el("small", {}, interval(found))]);
    return row(status[0], [["", data.networks[network]], ["number", seeds], ["", badge(status)], ...cells]);
  });
  tables.get("by-network").fill(lines, columns);
  fillRuns(runs, checks);
  const order = [...new Set(attacks.flatMap((attack) => attack.rows.map(([network]) => network)))];
  const place = new Map(ranked.map(([network], at) => [network, at]));
  order.sort((a, b) => (place.get(a) ?? Infinity) - (place.get(b) ?? Infinity));
  switches(order);
}
function fillRuns(found, checks) {
  tables.get("by-run").fill(
    data.runs.map(([name, network, seed, set, clean], at) => {
      const [value, error] = found[at]?.[state.strength] ?? [null, null];
      const status = checks[at] ?? ["unchecked", "–"];
      const link = el("a", { href: `#/run/${encodeURIComponent(name)}` }, `${network}, seed ${seed}`);
      return row(status[0], [["", link], ["", set], ["number", seed], ["number", text(value), error != null && el("small", {}, `± ${text(error)}`)], ["number", text(clean)], ["", badge(status)]]);
    }),
  );
}
const mark = (network) => {
  const { color, symbol } = look(network);
  const glyph = el("span", { className: "mark", ariaHidden: "true" }, GLYPHS[symbol]);
  glyph.style.color = color;
  return glyph;
};
function bar([value, low, high], end, color) {
  const part = (className, from, to) => {
    const node = el("i", { className });
    Object.assign(node.style, { left: `${(100 * from) / end}%`, width: `${(100 * (to - from)) / end}%` });
    return node;
  };
  const fill = part("fill", 0, value);
  fill.style.background = color;
  return el("span", { className: "track", ariaHidden: "true" }, fill, low != null && part("whisker", low, high));
}

// Curves.

let library;
let drawn = new Set(); // networks
const plotly = () =>
  (library ??= unpack("plotly").then((source) => {
    document.head.append(el("script", { textContent: source }));
    return window.Plotly;
  }));
function switches(order) {
  const before = all(".switches input").map((box) => box.value).sort().join();
  const offered = order.slice(0, SWITCHES);
  if (before !== [...offered].map(String).sort().join()) {
    drawn = new Set(offered.slice(0, data.looks.length));
    const { networks } = here();
    const [field] = all(".switches");
    const boxes = offered.map((network) => {
      const [, ...status] = networks[network];
      const box = el("input", { type: "checkbox", name: "network", value: network, checked: drawn.has(network) });
      return el("label", {}, box, mark(network), data.networks[network], /failed|warned/.test(status[0]) && badge(status));
    });
    const rest = order.length - offered.length;
    field.replaceChildren(field.firstElementChild, ...boxes, rest > 0 ? el("small", {}, ` and ${rest} more in the table below`) : "");
  }
  drawCurves();
}
function drawCurves() {
  const { attacks, networks } = here();
  const charts = attacks.filter((attack) => attack.x.length > 1).map((attack) => {
    const series = attack.rows.filter(([network]) => drawn.has(network)).map(([network, ...found]) => ({
      name: data.networks[network],
      ...look(network),
      flagged: /failed|warned/.test(networks[network][1]),
      status: networks[network][2],
      y: found.map((one) => one?.[0] ?? null),
      low: found.map((one) => one?.[1] ?? null),
      high: found.map((one) => one?.[2] ?? null),
    }));
    return { title: `Accuracy under ${attack.name}`, x: attack.x, places: attack.places, xlabel: attack.label, ylabel: "accuracy (%)", percent: true, series };
  });
  const [box] = all("#curves .charts");
  if (box.children.length !== charts.length) box.replaceChildren(...charts.map(() => el("figure", { className: "chart" }, el("figcaption"), el("div", { className: "plot", role: "img" }))));
  charts.forEach((chart, at) => {
    const [caption, plot] = box.children[at].children;
    caption.textContent = chart.title;
    plot.ariaLabel = `${chart.title}. The table below has the numbers.`;
    draw(plot, chart);
  });
}
async function draw(plot, { x, places, xlabel, ylabel, percent, series }) {
  const Plotly = await plotly();
  if (!plot.isConnected || !plot.clientWidth) return;
  const plain = (words) => String(words).replace(/&/g, "&amp;").replace(/</g, "&lt;");
  const traces = series.flatMap(({ name, y, low, high, error, flagged, status, ...given }, at) => {
    const { color, symbol } = given.color ? given : look(at);
    const [lows, highs] = low ? [low, high] : error ? [y.map((v, i) => v - 1.96 * error[i]), y.map((v, i) => v + 1.96 * error[i])] : [];
    const known = (lows ?? []).map((_, i) => i).filter((i) => lows[i] != null && y[i] != null);
    const bounds = (v) => (percent ? Math.min(100, Math.max(0, v)) : v);
    const words = y.map((v, i) => `${plain(name)}: ${percent ? `${text(v)} %` : v}${low ? ` (95 %: ${interval([v, low[i], high[i]])})` : error ? ` ± ${text(error[i])}` : ""}<br>${places?.[i] ?? `${xlabel} ${x[i]}`}${flagged ? `<br>checks: ${status}` : ""}`);
    const band = { x: [...known.map((i) => x[i]), ...known.map((i) => x[i]).reverse()], y: [...known.map((i) => bounds(highs[i])), ...known.map((i) => bounds(lows[i])).reverse()], type: "scatter", mode: "none", fill: "toself", fillcolor: `${color}26`, hoverinfo: "skip" };
    const line = { x, y, name: plain(name), text: words, type: "scatter", mode: "lines+markers", connectgaps: true, cliponaxis: false, hovertemplate: "%{text}<extra></extra>", line: { color, width: 2, dash: flagged ? "dot" : "solid" }, marker: { size: x.length > 40 ? 4 : 8, color, symbol: flagged ? `${symbol}-open` : symbol } };
    return known.length ? [band, line] : [line];
  });
  const axis = { automargin: true, fixedrange: true, rangemode: "tozero", nticks: 7 };
  const ticks = places && x.length < 10 ? { tickvals: x, ticktext: places.map((place) => place.replace(/.*[=] ?|\)/g, "")) } : {};
  const layout = {
    xaxis: { ...axis, ...ticks, title: { text: plain(xlabel) } }, yaxis: { ...axis, title: { text: plain(ylabel) }, ...(percent && { range: [0, 102] }) },
    margin: { l: 50, r: 12, t: 10, b: 44 }, height: 300, paper_bgcolor: "transparent", plot_bgcolor: "transparent", hovermode: "closest", dragmode: false,
    font: { family: "inherit", size: 13 }, showlegend: !series[0]?.color, legend: { orientation: "h", y: -0.25 },
  };
  await Plotly.react(plot, traces, layout, { displayModeBar: false, responsive: true });
  for (const svg of all(".main-svg", plot)) svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`); // paper scales it
  plot.classList.add("drawn");
}

// Pages of runs, and the address.

const [report, article] = ["report", "run"].map((id) => document.getElementById(id));
let left = 0; // how far the report was scrolled
async function route() {
  const [, kind, rest] = location.hash.match(/^#\/(run|ask)\/(.*)$/) ?? [];
  if (kind === "ask") {
    choose(...rest.split("-").map(Number));
    document.getElementById("answer").scrollIntoView();
  }
  const name = kind === "run" ? decodeURIComponent(rest) : null;
  const at = data.runs.findIndex((run) => run[0] === name);
  if (name !== null) {
    if (article.hidden) left = window.scrollY;
    const missing = [el("h2", {}, "No such run"), el("p", {}, name), el("a", { href: "#runs" }, "All runs")];
    if (at < 0) article.replaceChildren(...missing);
    else article.innerHTML = await unpack(`run-${at}`);
  }
  const back = name === null && !article.hidden;
  article.hidden = name === null;
  report.hidden = name !== null;
  document.title = at < 0 ? all("h1")[0].textContent : `${data.runs[at][1]}, seed ${data.runs[at][2]}`;
  if (name !== null) {
    window.scrollTo(0, 0);
    article.focus({ preventScroll: true });
    all("[data-chart]", article).forEach((plot) => draw(plot, JSON.parse(plot.dataset.chart)));
  } else if (back) followed ? document.getElementById(location.hash.slice(1))?.scrollIntoView() : window.scrollTo(0, left);
  followed = false;
}
let followed = false; // whether a link led here, and not the browser's Back
document.addEventListener("click", ({ target }) => (followed = target.closest("a") !== null));
all(".skip")[0].addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
window.addEventListener("hashchange", route);

// Paper: nothing can be opened there, so everything is open, and as it was afterwards.
let closed = [];
for (const event of ["beforeprint", "afterprint"])
  window.addEventListener(event, () => {
    printing = event === "beforeprint";
    if (printing) closed = all("details:not([open])");
    closed.forEach((details) => (details.open = printing));
    tables.forEach(({ refresh }) => refresh());
  });

all(".table").forEach(control);
if (data.start) choose(...data.start);
else tables.get("by-run") && fillRuns({}, {});
route();
document.documentElement.dataset.ready = "yes";
