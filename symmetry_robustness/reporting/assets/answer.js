// The answer first: which network is best at one point of one setting, by how much, and with what doubt.

const state = { setting: 0, attack: null, position: null };

/** Curves of the present setting and attack. */
const curvesHere = () => data.curves.filter((curve) => curve.setting === state.setting && curve.attack === state.attack);
const attacksOf = (setting) => [...new Set(data.curves.filter((curve) => curve.setting === setting).map((curve) => curve.attack))];
const positionsHere = () => [...new Set(curvesHere().flatMap((curve) => curve.positions))].sort((a, b) => a - b);
const axisHere = () => curvesHere()[0].axis;
const colorOf = (network) => data.networks.indexOf(network);

/** What the network is put through, in words. */
function ordeal(attack, setting) {
  const count = attacksOf(setting).filter((name) => data.curves.find((c) => c.setting === setting && c.attack === name).axis === "epsilon").length - 1;
  if (attack === "worst_case") return `the worst of ${plural(count, "attack")}`;
  return { none: "no attack", rotation: "rotation of the images", scale: "scaling of the images" }[attack] ?? named(attack);
}

/** Keep what was chosen where it exists, else the worst case at 4/255 or near it. */
function settle() {
  const attacks = attacksOf(state.setting);
  if (!attacks.includes(state.attack)) state.attack = attacks.includes("worst_case") ? "worst_case" : attacks[0];
  const positions = positionsHere();
  if (!positions.includes(state.position)) {
    const wanted = { epsilon: 4 / 255, rotation: 90, scale: 0.5, severity: 3 }[axisHere()];
    const others = positions.length > 1 ? positions.filter((position) => position !== 0) : positions;
    state.position = others.reduce((best, one) => (Math.abs(one - wanted) < Math.abs(best - wanted) ? one : best));
  }
}

/** How sure the mean of a curve is, in words. */
function doubt(curve) {
  const images = isNumber(curve.images) ? `, ${plural(curve.images, "image")} each` : "";
  return `${plural(curve.seeds, "seed")}${images}`;
}

/** The curves at the present position, best first; those that failed a check come last where others did not. */
function standings() {
  const here = curvesHere().flatMap((curve) => {
    const at = curve.positions.indexOf(state.position);
    return at < 0 ? [] : { ...curve, value: curve.values[at], low: curve.lows[at], high: curve.highs[at] };
  });
  const { set_aside: aside } = answerHere();
  return here.sort((a, b) => aside.includes(a.network) - aside.includes(b.network) || b.value - a.value);
}

const interval = ({ low, high }) => (isNumber(low) ? `${percent(low)} to ${percent(high)}` : "no interval");

/** The answers to all that may be asked, by what is asked. */
const answers = new Map(data.answers.map((answer) => [`${answer.setting} ${answer.attack} ${answer.position}`, answer]));

/** What to show of another data set: the same protocol if it has it, else what has the same attack, else its first setting. */
function settingOn(set) {
  const here = data.settings[state.setting];
  const same = (one) => ["protocol", "released", "norm", "split"].every((name) => one[name] === here[name]);
  const worth = (index) => 2 * same(data.settings[index]) + attacksOf(index).includes(state.attack);
  const others = [...data.settings.keys()].filter((index) => data.settings[index].data === set);
  return others.reduce((best, one) => (worth(one) > worth(best) ? one : best), data.starts[set]);
}

const answerHere = () => answers.get(`${state.setting} ${state.attack} ${state.position}`);

function question(redrawAll) {
  const set = (change) => {
    Object.assign(state, change);
    settle();
    redrawAll();
  };
  const here = data.settings[state.setting];
  const sets = [...new Set(data.settings.map((setting) => setting.data))];
  const judged = data.settings.map((setting, index) => [index, settingName(setting), setting.data]).filter(([, , name]) => name === here.data);
  const attacks = attacksOf(state.setting).map((attack) => [attack, ordeal(attack, state.setting)]);
  const positions = positionsHere().map((position) => [position, position === 0 && axisHere() === "epsilon" ? "ε = 0 (clean)" : positionName(axisHere(), position)]);
  const phrase = (...words) => el("span", {}, words);
  return el(
    "p",
    { class: "question" },
    phrase("Which network is most robust"),
    phrase("on ", choice("data set", sets.map((name) => [name, name]), here.data, (name) => set({ setting: settingOn(name) }))),
    phrase("under ", choice("attack", attacks, state.attack, (attack) => set({ attack }))),
    positions.length > 1 && phrase("at ", choice("strength", positions, state.position, (position) => set({ position: Number(position) }))),
    phrase("judged by ", choice("protocol", judged.map(([index, name]) => [index, name]), state.setting, (index) => set({ setting: Number(index) })), "?"),
  );
}

/** What a protocol does, where its name does not say all of it. */
const described = ({ protocol, norm, description }) => description !== `${protocol}; ${named(norm)}` && el("span", {}, description);

/** A protocol with what else tells settings apart. */
const settingDetails = ({ released, norm, split, variant }) => [released && "re-enacted", norm && named(norm), split !== "test" && split, variant].filter(Boolean).join(", ");
const settingName = (setting) => `${setting.protocol} (${settingDetails(setting)})`.replace(" ()", "");

/** One comparison of the best network with another: by how much, and whether a test tells them apart. */
function lead(comparison) {
  if (!comparison) return [el("strong", {}, "–"), el("span", {}, "nothing to compare with")];
  const { difference, low, high, p_value: p, distinct, seeds, other, test } = comparison;
  const range = isNumber(low) ? `95 %: ${signed(100 * low)} to ${signed(100 * high)}` : "no interval";
  const one = seeds === 1;
  const verdict = distinct == null ? "not tested" : distinct ? (one ? "these two trained networks differ on such images" : "hardly chance") : "may be chance";
  const tested = isNumber(p) ? `${verdict}: ${probability(p)} (${test})` : [verdict, test || "no results for single images"].join(": ");
  return [
    el("strong", {}, `${signed(100 * difference)} points`),
    el("span", {}, "over ", breakable(other), `; ${range}`),
    el("span", { class: distinct ? (one ? "known" : "sure") : "unsure" }, tested),
  ];
}

/** The answer in a sentence, as far as the tests carry it. */
function headline(best, answer, next) {
  if (best.value === 0) return ["None: every network falls to 0 %"];
  const name = el("b", {}, breakable(best.network));
  if (!next) return [name, " is the only network measured here"];
  if (next.difference === 0) return [name, " and ", el("b", {}, breakable(next.other)), " are level"];
  const single = best.seeds > 1 ? " leads; it has one seed in common with another" : " leads; one training each";
  return [name, { best: " is the most robust", chance: " leads, but it may be chance", single, untested: " leads; no test tells whether by chance" }[answer.verdict]];
}

function tile(title, ...content) {
  return el("div", { class: "tile" }, el("dt", {}, title), el("dd", {}, content));
}

/** The answer in words, for the present question. */
function answerCard() {
  const rows = standings();
  const answer = answerHere();
  const best = rows.find((row) => row.network === answer.best);
  const setting = data.settings[state.setting];
  const by = (role) => answer.comparisons.find((comparison) => comparison.role === role);
  const warnings = [
    best.failed > 0 && el("p", { class: "notice failed" }, badge("failed", "Do not rely on this"), " Every network here failed a soundness check in some run, this one in ", plural(best.failed, "run"), "."),
    best.failed === 0 && best.warned > 0 && el("p", { class: "notice warned" }, badge("warned", "Read with care"), " Soundness checks warned in ", `${best.warned} of ${plural(best.runs.length, "run")}`, " of this network."),
    setting.released && el("p", { class: "notice warned" }, badge("warned", "Not a sound measurement"), " This protocol re-enacts the released scripts, mistakes included."),
    answer.set_aside.length > 0 && el("p", { class: "notice failed" }, badge("failed", "Set aside"), " ", answer.set_aside.flatMap((name) => [breakable(name), ", "]).flat().slice(0, -1), " failed soundness checks and cannot win, whatever the number."),
  ];
  if (setting.training_differs_in) warnings.push(el("p", { class: "notice warned" }, badge("warned", "Not only the network differs"), ` The trainings differ in ${setting.training_differs_in}, too.`));
  const standard = by("standard");
  const alone = by("next") && by("next").other === standard?.other;
  const isStandard = best.network === answer.standard;
  return el(
    "div",
    { class: `answer ${answer.verdict} ${worst(best)}` },
    el("p", { class: "headline" }, headline(best, answer, by("next"))),
    el("p", { class: "result" }, el("strong", {}, `${percent(best.value)} %`), ` of images are still classified correctly (95 % interval ${interval(best)})`),
    warnings,
    el(
      "dl",
      { class: "tiles" },
      tile(alone ? "Ahead of the next, the standard network" : "Ahead of the next", lead(by("next"))),
      !alone && tile("Ahead of the standard network", isStandard ? [el("strong", {}, "–"), el("span", {}, "it is the standard network")] : lead(standard)),
      tile("How sure", el("strong", {}, doubt(best)), el("span", {}, best.seeds > 1 ? "The interval is over seeds: other trainings of the same network." : "The interval is over images only: with one seed, nobody knows how other trainings would do."), setting.data.includes("other copy") && el("span", {}, "Other copy: not the official files of the data set.")),
      tile("Judged by", el("strong", {}, settingName(setting)), described(setting), checksBadge(best, best.failed || best.warned ? ` of ${plural(best.runs.length, "run")}` : best.checked ? " all soundness checks" : "")),
    ),
  );
}

/** Ticks of an axis from 0 to a round number above the largest value. */
function ticks(largest) {
  const step = [0.01, 0.02, 0.05, 0.1, 0.25].find((size) => largest <= 4 * size) ?? 0.25;
  return Array.from({ length: Math.max(1, Math.ceil(largest / step - 1e-9)) + 1 }, (_, index) => index * step);
}

/** All networks, best first, as bars with their intervals: a table whose bars are an extra. */
function ranking() {
  const rows = standings();
  const marks = ticks(Math.max(0.01, ...rows.map((row) => Math.max(row.value, row.high ?? 0))));
  const end = marks.at(-1);
  const at = (share) => `${Math.min(100, (100 * share) / end)}%`;
  const scale = el("span", { class: "scale", "aria-hidden": "true" }, marks.map((mark) => el("i", { style: `left:${at(mark)}` }, `${Math.round(100 * mark)}`)));
  const titles = [["Network"], ["", "bar", scale], ["% correct", "number"], ["95 % interval", "number wide"], ["Seeds", "number wide"], ["Checks"]];
  const head = titles.map(([title, kind, extra]) => el("th", { scope: "col", class: kind }, title || el("span", { class: "hidden" }, "Bar"), extra));
  const body = rows.map((row) => {
    const { color } = look(colorOf(row.network));
    const whisker = isNumber(row.low) && el("i", { class: "whisker", style: `left:${at(row.low)};width:${100 * (row.high - row.low) / end}%` });
    const bar = el("span", { class: "track" }, marks.slice(1).map((mark) => el("i", { class: "mark", style: `left:${at(mark)}` })), el("i", { class: "fill", style: `width:${at(row.value)};background:${color}` }), whisker);
    return el(
      "tr",
      { class: worst(row) },
      el("th", { scope: "row" }, breakable(row.network)),
      el("td", { class: "bar", "aria-hidden": "true" }, bar),
      el("td", { class: "number value" }, percent(row.value)),
      el("td", { class: "number wide" }, interval(row)),
      el("td", { class: "number wide" }, row.seeds),
      el("td", { class: "checks" }, checksBadge(row)),
    );
  });
  const caption = `Networks under ${ordeal(state.attack, state.setting)}, best first`;
  return el("table", { class: "ranking" }, el("caption", {}, caption), el("thead", {}, el("tr", {}, head)), el("tbody", {}, body));
}
