// The report: its sections, and the way between it and the pages of single runs.

const report = document.getElementById("report");
const runArticle = document.getElementById("run");
let left = { place: "", scrolled: 0 }; // where the report was left for the page of a run
let followed = false; // whether a link led here, and not the browser's Back

function section(id, title, ...content) {
  return el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), content);
}

/** What did not pass, over all runs: each check with what it asks and where it stopped. */
function soundness() {
  const found = new Map();
  data.runs.forEach((run) =>
    run.reports.forEach((one) =>
      ["failed", "warned"].forEach((status) =>
        one[status].forEach((name) => {
          const key = `${status} ${name}`;
          if (!found.has(key)) found.set(key, { status, name, runs: new Set() });
          found.get(key).runs.add(run);
        }),
      ),
    ),
  );
  const lines = [...found.values()]
    .sort((a, b) => (a.status === b.status ? b.runs.size - a.runs.size : a.status === "failed" ? -1 : 1))
    .map(({ status, name, runs }) => {
      const links = [...runs].slice(0, 4).flatMap((run) => [el("a", { href: runHref(run) }, `${run.network} seed ${run.seed}`), ", "]).slice(0, -1);
      const rest = runs.size > 4 && ` and ${runs.size - 4} more`;
      return el("li", { class: status }, badge(status, status), el("div", {}, el("strong", {}, name.replaceAll("_", " ")), el("p", {}, data.checks[name] ?? ""), el("p", { class: "evidence" }, `In ${plural(runs.size, "run")}: `, links, rest)));
    });
  return lines.length ? el("ul", { class: "checks-list" }, lines) : el("p", {}, badge("passed", "Every soundness check of every evaluation passed"));
}

/** What a reader must know before any number. Re-enacted protocols are known to be unsound and do not count. */
function notices() {
  const judged = data.runs.flatMap((run) => run.reports).filter((one) => one.checked && !data.settings[one.setting].released);
  const failed = judged.filter((one) => one.failed.length).length;
  const warned = judged.filter((one) => !one.failed.length && one.warned.length).length;
  const lost = data.problems.length;
  if (!failed && !warned && !lost) return null;
  const of = `of ${plural(judged.length, "evaluation")}`;
  const items = [
    failed > 0 && [badge("failed", `${failed} ${of} failed`), " a soundness check: ", el("a", { href: "#checks" }, "which")],
    warned > 0 && [badge("warned", `${warned} ${of} warned`), " in a soundness check: ", el("a", { href: "#checks" }, "which")],
    lost > 0 && [badge("warned", `${plural(lost, "run")} left out`), " as unfinished, failed or damaged: ", el("a", { href: "#problems" }, "which")],
  ].filter(Boolean);
  return el("ul", { class: `notice ${failed ? "failed" : "warned"}` }, items.map((item) => el("li", {}, item)));
}

/** Columns for every strength that occurs in the rows. */
function strengths(rows) {
  const keys = new Map();
  rows.forEach((row) => row.positions.forEach((position) => keys.set(`${row.axis} ${position}`, [row.axis, position])));
  return [...keys.values()]
    .filter(([axis, position]) => !(axis === "epsilon" && position === 0))
    .sort((a, b) => a[0].localeCompare(b[0]) || a[1] - b[1])
    .map(([axis, position]) => {
      const at = (row) => (row.axis === axis ? row.positions.indexOf(position) : -1);
      return {
        title: axis === "epsilon" ? `ε ${epsilonName(position)}` : positionName(axis, position),
        number: true,
        value: (row) => (at(row) < 0 ? null : row.values[at(row)]),
        cell: (row) => (at(row) < 0 ? "–" : row.cell(at(row))),
      };
    });
}

const withDoubt = (value, rest) => [value, el("small", {}, rest)];
const clean = { title: "Clean", number: true, value: (row) => row.clean, cell: (row) => percent(row.clean) };
const checks = { title: "Checks", value: worst, cell: (row) => checksBadge(row) };
const textColumn = (title, value) => ({ title, value, kind: "name", cell: (row) => breakable(value(row) ?? "–") });
const attackOf = (row) => named(row.attack);
const dataOf = (row) => data.settings[row.setting].data;
const protocolOf = (row) => settingName(data.settings[row.setting]);
const protocolColumn = { title: "Protocol", value: (row) => (row.setting == null ? null : protocolOf(row)), kind: "name protocol", cell: (row) => (row.setting == null ? "–" : protocolCell(data.settings[row.setting])) };
const protocolCell = (setting) => [setting.protocol, el("small", {}, settingDetails(setting))];

function networkTable() {
  const rows = data.curves.map((curve) => ({
    ...curve,
    clean: curve.axis === "epsilon" && curve.positions[0] === 0 ? curve.values[0] : null,
    cell: (at) => withDoubt(percent(curve.values[at]), isNumber(curve.lows[at]) ? `${percent(curve.lows[at])} to ${percent(curve.highs[at])}` : "no interval"),
  }));
  return dataTable({
    caption: "Results by network",
    rows,
    status: worst,
    facets: { network: (row) => row.network, "data set": dataOf, attack: attackOf, protocol: protocolOf },
    columns: (shown) => [
      textColumn("Network", (row) => row.network), checks, textColumn("Attack", attackOf), textColumn("Data", dataOf), protocolColumn,
      { title: "Seeds", number: true, value: (row) => row.seeds }, clean, ...strengths(shown),
    ],
  });
}

function runTable() {
  const rows = data.runs.flatMap((run) => {
    const own = { run, network: run.network, clean: run.clean, failed: 0, warned: 0, checked: false };
    if (!run.reports.length) return { ...own, axis: null, positions: [], attack: null, setting: null };
    return run.reports.flatMap((one) =>
      Object.entries(one.attacks).map(([attack, found]) => ({
        ...own, ...found, attack, setting: one.setting, failed: one.failed.length, warned: one.warned.length, checked: one.checked, images: one.images,
        cell: (at) => withDoubt(percent(found.values[at]), isNumber(found.errors[at]) ? `± ${percent(found.errors[at])}` : ""),
      })),
    );
  });
  const known = (of) => (row) => (row.setting == null ? null : of(row));
  return dataTable({
    caption: "Results by run",
    rows,
    status: worst,
    facets: {
      network: (row) => row.network, "data set": (row) => row.run.data, attack: known(attackOf), protocol: known(protocolOf),
      seed: (row) => row.run.seed, checks: worst,
    },
    columns: (shown) => [
      { title: "Run", value: (row) => row.run.name, cell: (row) => el("a", { href: runHref(row.run) }, breakable(row.network), ` · seed ${row.run.seed}`) },
      checks, textColumn("Attack", known(attackOf)), textColumn("Data", (row) => row.run.data), protocolColumn,
      { title: "Seed", number: true, value: (row) => row.run.seed }, { ...clean, explain: "on the whole test set" }, ...strengths(shown),
    ],
  });
}

/** CLEVER, errors under corruptions, size and speed: what was measured of any network here. */
function measuresTable() {
  const units = [
    ["clever", "CLEVER, mean", significant], ["clever_median", "CLEVER, median", significant], ["mean_corruption_error", "Corruption error %", percent],
    ["parameters", "Parameters", whole], ["flops", "FLOPs, millions", (value) => significant(value / 1e6)], ["training_seconds", "Training", seconds], ["images_per_second", "Images/s", significant],
  ];
  const measures = units
    .filter(([name]) => data.measures.some((row) => row.values[name]))
    .map(([name, title, text]) => ({
      title,
      number: true,
      value: (row) => row.values[name]?.value,
      cell: ({ values: { [name]: found } }) => (!found ? "–" : isNumber(found.low) && found.low < found.high ? withDoubt(text(found.value), `${text(found.low)} to ${text(found.high)}`) : text(found.value)),
    }));
  const judged = data.measures.some((row) => row.setting != null);
  const several = (column) => new Set(data.measures.map(column.value)).size > 1 && column;
  return dataTable({
    caption: "Measures and costs",
    rows: data.measures,
    status: (row) => row.checks || "unchecked",
    facets: { network: (row) => row.network, "data set": (row) => row.data },
    columns: () => [
      textColumn("Network", (row) => row.network), judged && { title: "Checks", value: (row) => row.checks, cell: (row) => (row.checks ? badge(row.checks, row.checks) : badge("unchecked", "not checked")) },
      several(textColumn("Data", (row) => row.data)), several(protocolColumn), { title: "Seeds", number: true, value: seedsOf }, ...measures,
    ].filter(Boolean),
  });
}

const seedsOf = (row) => Math.max(...Object.values(row.values).map((found) => found.seeds));

function problemTable() {
  return dataTable({
    caption: "Runs left out",
    rows: data.problems,
    status: () => "warned",
    columns: () => [textColumn("Run", (row) => row.path), textColumn("What", (row) => row.kind), { title: "Reason", value: (row) => row.reason }],
    facets: { what: (row) => row.kind },
  });
}

/** Build all sections; those that a report has nothing for are left out. */
function build() {
  const question_ = el("div", { class: "asked" });
  const curves = el("div", {});
  const ask = () => {
    const label = document.activeElement?.closest?.(".question")?.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
    question_.replaceChildren(question(ask), el("div", { "aria-live": "polite" }, answerCard()), ranking());
    if (label) question_.querySelector(`[aria-label="${label}"]`)?.focus();
    curves.replaceChildren(...curveCharts().filter(Boolean));
  };
  const measured = data.curves.length > 0;
  if (measured) {
    state.setting = Object.values(data.starts)[0];
    settle();
    ask();
  } else question_.replaceChildren(el("p", {}, "No finished run has a measured accuracy."));
  const sections = [
    section("answer", "The answer", notices(), question_),
    measured && section("curves", "Curves", curves),
    measured && section("networks", "By network", el("p", { class: "hint" }, "Means over seeds with 95 % intervals, in % of images classified correctly. Different protocols never share a row."), networkTable()),
    data.runs.length > 0 && section("runs", "By run", el("p", { class: "hint" }, "Each run on its own, in %, ± one standard error over images. A run opens with everything behind its numbers."), runTable()),
    data.measures.length > 0 && section("measures", "Measures and costs", el("p", { class: "hint" }, "Means over seeds, with 95 % intervals where there are any. CLEVER and images per second: more is better. FLOPs are multiplications and additions of one forward pass; training time leaves evaluations out."), measuresTable()),
    data.claims.length > 0 && section("claims", "Claims of the paper", claimsSection()),
    data.runs.some((run) => run.reports.some((one) => one.checked)) && section("checks", "Soundness checks", soundness()),
    data.problems.length > 0 && section("problems", "Runs left out", problemTable()),
  ].filter(Boolean);
  report.replaceChildren(...sections);
  document.getElementById("sections").replaceChildren(...sections.map((one) => el("li", {}, el("a", { href: `#${one.id}` }, one.querySelector("h2").textContent))));
  const networks = data.networks.length;
  const sets = new Set(data.settings.map((one) => one.data)).size;
  document.getElementById("facts").textContent = [plural(data.runs.length, "run"), plural(networks, "network"), plural(sets, "data set"), `made ${data.made}`].join(" · ");
}

/** Show what the address asks for: a run's page, or a place in the report. */
async function route({ oldURL: from = location.href } = {}) {
  const name = location.hash.startsWith("#/run/") ? decodeURIComponent(location.hash.slice(6)) : null;
  const index = name === null ? -1 : data.runs.findIndex((run) => run.name === name);
  if (name !== null) {
    if (runArticle.hidden) left = { place: new URL(from).hash, scrolled: window.scrollY };
    const content = index < 0 ? [el("h2", {}, "No such run"), el("p", {}, name), el("a", { href: "#runs" }, "All runs")] : await runPage(index);
    runArticle.replaceChildren(...content.flat().filter(Boolean));
  }
  const back = name === null && !runArticle.hidden;
  runArticle.hidden = name === null;
  report.hidden = name !== null;
  document.title = index < 0 ? data.title : `${data.runs[index].network}, seed ${data.runs[index].seed} – ${data.title}`;
  if (name !== null) {
    window.scrollTo({ top: 0, behavior: "instant" });
    runArticle.focus({ preventScroll: true });
  } else if (back) {
    const place = (followed || location.hash !== left.place) && document.getElementById(location.hash.slice(1));
    place ? place.scrollIntoView({ behavior: "instant" }) : window.scrollTo({ top: left.scrolled, behavior: "instant" });
  }
  followed = false;
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
document.addEventListener("click", (event) => (followed = event.target.closest("a") !== null));
window.addEventListener("hashchange", route);
build();
route();
document.documentElement.dataset.ready = "yes";
