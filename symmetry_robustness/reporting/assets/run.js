// The page of one run: everything that stands behind its numbers.

const blocks = new Map();

/** What is kept of a run beside its numbers; runs are packed together in blocks. */
async function detailsOf(index) {
  const block = Math.floor(index / data.block);
  if (!blocks.has(block)) blocks.set(block, unpack(`details-${block}`).then(JSON.parse));
  return (await blocks.get(block))[index % data.block];
}

const runHref = (run) => `#/run/${encodeURIComponent(run.name)}`;
const whole = (number) => number.toLocaleString("en", { maximumFractionDigits: 0 });
const seconds = (number) => (number < 120 ? `${number.toFixed(0)} s` : number < 7200 ? `${(number / 60).toFixed(0)} min` : `${(number / 3600).toFixed(1)} h`);

/** Terms and descriptions; what is missing is left out. */
function facts(pairs, kind = "facts-list") {
  const known = pairs.filter(([, value]) => value != null && value !== "");
  return el("dl", { class: kind }, known.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))));
}

async function runPage(index) {
  const run = data.runs[index];
  const details = await detailsOf(index);
  const [failed, warned] = ["failed", "warned"].map((kind) => run.reports.reduce((sum, report) => sum + report[kind].length, 0));
  const checked = run.reports.some((report) => report.checked);
  return [
    el("p", {}, el("a", { href: "#runs" }, "← All runs")),
    el("p", { class: "eyebrow" }, "Run"),
    el("h2", { id: "run-title" }, breakable(run.network), ` · seed ${run.seed}`),
    el("p", { class: "path" }, run.name),
    failed + warned > 0
      ? el("p", { class: `notice ${worst({ failed, warned })}` }, checksBadge({ failed, warned }), " Read the checks below before any number of this run.")
      : el("p", {}, checked ? badge("passed", "All soundness checks passed") : badge("unchecked", "No soundness checks were made")),
    facts([
      ["Data", run.data],
      ["Clean accuracy", run.clean == null ? null : `${percent(run.clean)} %`],
      ["Parameters", run.parameters?.toLocaleString("en")],
      ["Epochs", run.epochs],
      ["Training time", run.seconds == null ? null : seconds(run.seconds)],
      ["Group", run.group],
      ["Commit", run.commit && el("code", {}, run.commit.slice(0, 10))],
    ]),
    run.reports.map((report, at) => reportSection(report, details.reports[at])),
    trainingSection(details.metrics),
    originSection(details),
  ];
}

/** What one evaluation found: numbers, checks, examples, measures. */
function reportSection(report, details) {
  const setting = data.settings[report.setting];
  const notes = [setting.data, report.images != null && plural(report.images, "image"), described(setting)?.textContent];
  const checks = details?.checks ?? [];
  return el(
    "section",
    {},
    el("h3", {}, setting.released ? "Re-enacted: " : "Evaluation: ", settingName(setting), " ", checksBadge({ failed: report.failed.length, warned: report.warned.length, checked: report.checked })),
    el("p", { class: "hint" }, notes.filter(Boolean).join(" · ")),
    setting.released && el("p", { class: "notice warned" }, badge("warned", "Not a sound measurement"), " It re-enacts the released scripts, mistakes included."),
    axes(report).map((axis) => accuracies(report, axis)),
    checks.length > 0 && checksTable(checks),
    examples(details?.examples),
    details?.measures?.length > 0 && [
      el("h4", {}, "Other measures"),
      plainTable("Other measures", ["Measure", "Value", "Standard error", "Images"], details.measures.map(([name, value, error, images]) => [name, significant(value), significant(error), images ?? "–"])),
    ],
  );
}

const axes = (report) => [...new Set(Object.values(report.attacks).map((found) => found.axis))];

/** Accuracy over the strength of each attack, as curves; the table behind has the standard errors. */
function accuracies(report, axis) {
  const found = Object.entries(report.attacks).filter(([, one]) => one.axis === axis);
  const positions = [...new Set(found.flatMap(([, one]) => one.positions))].sort((a, b) => a - b);
  const names = positions.map((position) => (axis === "epsilon" ? epsilonName(position) : positionName(axis, position)));
  const flagged = report.failed.length + report.warned.length > 0;
  const text = (one, at) => `${percent(one.values[at])}${isNumber(one.errors[at]) ? ` ± ${percent(one.errors[at])}` : ""}`;
  const rows = found.map(([attack, one]) => [named(attack), ...positions.map((position) => (one.positions.includes(position) ? text(one, one.positions.indexOf(position)) : "–"))]);
  const table = { titles: [axis === "epsilon" ? "Attack, % correct at ε" : "% correct", ...names], rows };
  if (positions.length < 2) return plainTable("Accuracy, % ± standard error", table.titles, rows);
  const series = found.map(([attack, one], index) => ({
    name: named(attack), index, flagged, x: one.positions, y: one.values,
    low: one.errors.every(isNumber) ? one.values.map((value, at) => Math.max(0, value - 1.96 * one.errors[at])) : null,
    high: one.values.map((value, at) => Math.min(1, value + 1.96 * (one.errors[at] ?? 0))),
    hover: one.positions.map((position, at) => `${named(attack)}: ${text(one, at)} % at ${positionName(axis, position)}`),
  }));
  const few = positions.length <= 9;
  const chart = lineChart({
    title: "Accuracy, % ± standard error over images",
    heading: legendOf(series, "Accuracy over strength, band: 95 % over images"),
    series, x: { title: { epsilon: "ε (pixels in [0, 1])", rotation: "rotation, degrees", scale: "scale", severity: "severity" }[axis], values: few ? positions : null, texts: few ? names : null },
    y: { title: "accuracy", percent: true, range: [0, 1.02] }, table,
  });
  chart.querySelector("details").open = true;
  return chart;
}

/** A heading with the colours of its series. */
function legendOf(series, title) {
  const keys = series.map(({ name, index }) => el("span", { class: "key" }, swatch(index), name));
  return [title, el("span", { class: "keys" }, keys)];
}

function checksTable(checks) {
  const order = Object.keys(STATUSES);
  const sorted = [...checks].sort((a, b) => order.indexOf(a.status) - order.indexOf(b.status));
  const line = (check) =>
    el(
      "li",
      { class: check.status },
      badge(check.status, check.status),
      el("div", {}, el("strong", {}, check.name.replaceAll("_", " ")), el("p", {}, data.checks[check.name] ?? ""), el("p", { class: "evidence" }, `Found: ${check.evidence}`)),
    );
  const list = (some) => el("ul", { class: "checks-list" }, some.map(line));
  const passed = sorted.filter((check) => check.status === "passed");
  const others = sorted.filter((check) => check.status !== "passed");
  const quiet = el("details", {}, el("summary", {}, `${passed.length} passed`), list(passed));
  return [el("h4", {}, "Soundness checks"), others.length > 0 && list(others), passed.length > 0 && quiet];
}

/** Adversarial examples: rows of pictures, with what became of each below. */
function examples(rows) {
  if (!rows) return null;
  if (typeof rows === "string") return [el("h4", {}, "Adversarial examples"), el("p", { class: "hint" }, rows)];
  const figures = rows.map(({ title, pictures, captions }) =>
    el(
      "figure",
      { class: "strip" },
      el("figcaption", {}, title),
      el("div", {}, pictures.map((source, at) => el("span", {}, el("img", { src: source, alt: `${title}, image ${at + 1}${captions[at] ? `: ${captions[at]}` : ""}`, width: 72, height: 72, loading: "lazy" }), captions[at] && el("small", {}, captions[at])))),
    ),
  );
  return [el("h4", {}, "Adversarial examples"), el("div", { class: "strips" }, figures)];
}

/** Curves of metrics.csv, one chart per kind of metric. */
function trainingSection(metrics) {
  const kinds = Object.entries(metrics ?? {});
  if (!kinds.length) return null;
  const charts = kinds.map(([kind, { x, names, columns }]) => {
    const series = names.map((name, index) => {
      const kept = x.map((_, at) => at).filter((at) => columns[index][at] != null);
      return { name, index, flagged: false, x: kept.map((at) => x[at]), y: kept.map((at) => columns[index][at]), hover: kept.map((at) => `${name}: ${significant(columns[index][at])} at epoch ${x[at]}`) };
    });
    const rows = x.map((epoch, at) => [epoch, ...columns.map((column) => significant(column[at]))]);
    return lineChart({ title: `During training: ${kind}`, heading: legendOf(series, kind[0].toUpperCase() + kind.slice(1)), series, x: { title: "epoch" }, y: { title: kind }, table: { titles: ["Epoch", ...names], rows } });
  });
  return el("section", {}, el("h3", {}, "Training"), el("div", { class: "charts" }, charts));
}

/** Where the run came from: command, commit, machine, configuration. */
function originSection({ provenance, config }) {
  const rows = Object.entries(provenance ?? {}).map(([name, value]) => [name, el("span", {}, typeof value === "string" ? value : JSON.stringify(value))]);
  return el(
    "section",
    {},
    el("h3", {}, "Provenance"),
    facts(rows, "provenance"),
    config && el("details", {}, el("summary", {}, "Configuration (config.yaml)"), el("pre", { tabindex: "0" }, config)),
  );
}
