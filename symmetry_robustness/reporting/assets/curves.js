// Accuracy over the strength of attacks: curves with bands, and a switch for each network.

/** One chart per attack of the present setting, and a switch for each network. */
function curveCharts() {
  const all = data.curves.filter((curve) => curve.setting === state.setting && curve.positions.length > 1);
  if (!all.length) return [el("p", {}, "Nothing was measured at more than one point in this setting.")];
  const networks = data.networks.filter((network) => all.some((curve) => curve.network === network));
  const visible = new Set(networks);
  const charts = [...new Set(all.map((curve) => curve.attack))].map((attack) => curveChart(attack, all.filter((curve) => curve.attack === attack)));
  const toggle = (network) => (event) => {
    event.target.checked ? visible.add(network) : visible.delete(network);
    charts.forEach((chart) => chart.show(visible));
  };
  const switches = networks.map((network) => {
    const flagged = all.filter((curve) => curve.network === network);
    const [failed, warned] = ["failed", "warned"].map((kind) => Math.max(...flagged.map((curve) => curve[kind])));
    return el(
      "label",
      { class: "switch" },
      el("input", { type: "checkbox", checked: true, onchange: toggle(network) }),
      swatch(colorOf(network)),
      breakable(network),
      failed + warned > 0 && [" ", checksBadge({ failed, warned })],
    );
  });
  const boxes = switches.map((label) => label.querySelector("input"));
  const setAll = (checked) => el("button", { type: "button", onclick: () => boxes.forEach((box) => box.checked !== checked && box.click()) }, checked ? "All" : "None");
  const legend = el("fieldset", { class: "switches" }, el("legend", {}, "Networks shown"), switches, networks.length > 2 && el("span", { class: "all" }, setAll(true), setAll(false)));
  const key = all.some((curve) => curve.failed + curve.warned > 0) && el("p", { class: "hint" }, "Dotted lines with hollow marks: a soundness check failed or warned in some run.");
  return [legend, key, el("div", { class: "charts" }, charts)];
}

function curveChart(attack, curves) {
  const axis = curves[0].axis;
  const norms = data.settings[state.setting].norm;
  const title = `Accuracy under ${ordeal(attack, state.setting)}`;
  const positions = [...new Set(curves.flatMap((curve) => curve.positions))].sort((a, b) => a - b);
  const series = curves.map((curve) => ({
    name: curve.network,
    index: colorOf(curve.network),
    x: curve.positions, y: curve.values, low: curve.lows.every(isNumber) ? curve.lows : null, high: curve.highs,
    flagged: curve.failed + curve.warned > 0,
    hover: curve.positions.map((position, at) => {
      const flag = curve.failed + curve.warned ? `, checks: ${curve.failed} failed, ${curve.warned} warned` : "";
      return `${curve.network}: ${percent(curve.values[at])} % at ${positionName(axis, position)} (${interval({ low: curve.lows[at], high: curve.highs[at] })}; ${doubt(curve)}${flag})`;
    }),
  }));
  const rows = curves.map((curve) => [curve.network, ...positions.map((position) => {
    const at = curve.positions.indexOf(position);
    return at < 0 ? "–" : withDoubt(percent(curve.values[at]), interval({ low: curve.lows[at], high: curve.highs[at] }));
  })]);
  const names = positions.map((position) => (axis === "epsilon" ? epsilonName(position) : positionName(axis, position)));
  const few = positions.length <= 9;
  const x = { epsilon: `ε (${named(norms)}, pixels in [0, 1])`, rotation: "rotation, degrees counter-clockwise", scale: "scale of the image", severity: "severity" }[axis];
  return lineChart({
    title, series,
    x: { title: x, values: few ? positions : null, texts: few ? names : null },
    y: { title: "accuracy", percent: true, range: [0, 1.02] },
    table: { titles: ["Network", ...names], rows },
  });
}
