// Line charts, drawn by plotly.js when they come into view; behind each stands a table with its numbers.

// Okabe and Ito's palette, as in the printed figures; networks beyond it repeat colours with other symbols.
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x"];
const GLYPHS = ["●", "■", "▲", "◆", "▼", "✚", "✖"];
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const drawn = new Set();
let library;

/** plotly.js, unpacked and run once. */
function plotly() {
  library ??= unpack("plotly").then((source) => {
    const script = el("script");
    script.textContent = source;
    document.head.append(script);
    return window.Plotly;
  });
  return library;
}

/** How a series looks: its colour on the present background, and its symbol. */
function look(index) {
  const color = COLORS[index % COLORS.length];
  const inverted = color === "#000000" && dark.matches && !printing;
  const shape = (index + Math.floor(index / COLORS.length)) % SYMBOLS.length;
  return { color: inverted ? "#FFFFFF" : color, symbol: SYMBOLS[shape], glyph: GLYPHS[shape] };
}

/** The mark of a series, to stand beside its name. */
function swatch(index) {
  const { color, glyph } = look(index);
  return el("span", { class: "swatch", style: `color:${color}`, "aria-hidden": "true" }, glyph);
}

const faint = (color) => color + "26"; // fifteen percent
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

/** Traces of one series: its band, then its line; dashed and hollow where checks did not pass. */
function traces({ name, index, x, y, low, high, hover, flagged }) {
  const { color, symbol } = look(index);
  const line = {
    x, y, type: "scatter", mode: "lines+markers", cliponaxis: false, name: plain(name), text: hover.map(plain),
    hovertemplate: "%{text}<extra></extra>",
    line: { color, width: 2, dash: flagged ? "dot" : "solid" },
    marker: { color, size: 8, symbol: flagged ? `${symbol}-open` : symbol, line: { width: flagged ? 2 : 0, color } },
  };
  if (!low) return [line];
  const band = {
    x: [...x, ...[...x].reverse()], y: [...high, ...[...low].reverse()], type: "scatter", mode: "lines", fill: "toself",
    fillcolor: faint(color), line: { width: 0 }, hoverinfo: "skip",
  };
  return [band, line];
}

function layout({ x, y }) {
  const style = getComputedStyle(document.documentElement);
  const [text, muted, rule, surface] = ["--text", "--muted", "--rule", "--surface"].map((name) => style.getPropertyValue(name).trim());
  const axis = {
    gridcolor: rule, linecolor: rule, zerolinecolor: rule, tickcolor: rule, tickfont: { color: muted }, automargin: true, fixedrange: true,
  };
  const title = (words) => ({ text: words, font: { size: 13, color: muted } });
  return {
    xaxis: { ...axis, title: title(x.title), tickvals: x.values, ticktext: x.texts, rangemode: "tozero" },
    yaxis: { ...axis, title: { ...title(y.title), standoff: 6 }, tickformat: y.percent ? ".0%" : null, range: y.range, rangemode: "tozero", nticks: 6 },
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: text },
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", showlegend: false, hovermode: "closest", dragmode: false,
    hoverlabel: { bgcolor: surface, bordercolor: muted, font: { color: text, size: 13 }, align: "left" },
    margin: { l: 56, r: 12, t: 8, b: 44 },
  };
}

/**
 * A chart with the table behind it.
 *
 * spec: {title, series: [{name, index, x, y, low?, high?, hover, flagged}], x: {title, values?, texts?}, y: {title, percent?, range?},
 * table: {titles, rows}}. Returns the element; `element.show(names)` leaves only these series.
 */
function lineChart(spec) {
  const plot = el("div", { class: "plot", role: "img", "aria-label": `${spec.title}. The table below has the numbers.` });
  let series = spec.series;
  let width; // at which it is drawn; 0 while it is hidden
  const draw = async () => {
    const Plotly = await plotly();
    if (!(width = plot.clientWidth)) return;
    const size = { width, height: printing ? 220 : 300 };
    await Plotly.react(plot, series.flatMap(traces), { ...layout(spec), ...size }, { displayModeBar: false });
    // On paper of any width the drawing is scaled to fit.
    for (const svg of plot.querySelectorAll(".main-svg")) svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
    plot.classList.add("drawn");
  };
  whenSeen(plot, () => {
    drawn.add({ plot, draw });
    draw();
    new ResizeObserver(() => plot.clientWidth !== width && draw()).observe(plot);
  });
  const numbers = el("details", {}, el("summary", {}, "Numbers as a table"), plainTable(spec.title, spec.table.titles, spec.table.rows));
  const element = el("figure", { class: "chart" }, el("figcaption", {}, spec.heading ?? spec.title), plot, numbers);
  element.show = (names) => {
    series = spec.series.filter((one) => names.has(one.name));
    if (plot.classList.contains("drawn")) draw();
  };
  return element;
}

/** Draw again what is still on the page, in the present colours and at the present width. */
function redraw() {
  for (const chart of drawn) chart.plot.isConnected ? chart.draw() : drawn.delete(chart);
}
dark.addEventListener("change", redraw);
// The printer does not wait: what was not seen yet can be drawn for it if the library is there.
setTimeout(() => awaited.size && plotly(), 1000);
whenPrinting(redraw);
