// Building blocks: elements, numbers as a person reads them, packed parts of the page.

const data = JSON.parse(document.getElementById("data").textContent);
const NAMES = { worst_case: "worst case", none: "no attack", fgsm: "FGSM", pgd: "PGD", linf: "ℓ∞", l2: "ℓ2", l1: "ℓ1" };
const STATUSES = { failed: "✕", warned: "▲", passed: "✓", unchecked: "–" };

/** An element; attributes that start with "on" are listeners, true and false switch an attribute on and off. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

/** A name of an attack or a norm in words, e.g. "worst case". */
const named = (name) => NAMES[name] ?? name?.replaceAll("_", " ");

/** A name that may break after an underscore; short parts stay together. */
const breakable = (name) => String(name).split(/(?<=[^_]{7}_)/).flatMap((part) => [part, el("wbr")]).slice(0, -1);

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

/** With so many decimals, rounded as in the written tables: exact halves to the even digit, where toFixed takes the larger. */
function fixed(number, digits) {
  const scaled = Math.abs(number) * 10 ** digits;
  const half = Number.isInteger(number * 2 ** (digits + 1)) && scaled % 1 === 0.5; // the first makes the product exact
  return (half ? (Math.sign(number) * 2 * Math.round(scaled / 2)) / 10 ** digits : number).toFixed(digits);
}

const percent = (share, digits = 1) => (isNumber(share) ? fixed(100 * share, digits) : "–");
const signed = (number, digits = 1) => (number < 0 ? "−" : "+") + fixed(Math.abs(number), digits);

/** Three significant digits; there are no exact halves beyond the fourth decimal. */
function significant(value) {
  if (!isNumber(value)) return "–";
  const digits = value ? 2 - Math.floor(Math.log10(Math.abs(value))) : 0;
  return String(Number(digits >= 0 && digits <= 4 ? fixed(value, digits) : value.toPrecision(3))).replace("-", "−");
}
const probability = (p) => (p < 0.001 ? "p < 0.001" : `p = ${p.toFixed(p < 0.1 ? 3 : 2)}`);

/** A radius as a fraction of 255 where it is one (8/255), in decimals otherwise. */
function epsilonName(epsilon) {
  const steps = Math.round(2 * 255 * epsilon) / 2;
  return steps && Math.abs(255 * epsilon - steps) < 1e-3 ? `${steps}/255` : String(Number(epsilon.toPrecision(4)));
}

/** Where on its axis a number was measured: a radius, an angle, a factor. */
function positionName(axis, position) {
  return { epsilon: `ε = ${epsilonName(position)}`, rotation: `${position}°`, scale: `× ${position}`, severity: `severity ${position}` }[axis];
}

/** The outcome of soundness checks as a symbol with words. */
function badge(status, text) {
  return el("span", { class: `badge ${status}` }, el("span", { "aria-hidden": "true" }, STATUSES[status], " "), text);
}

/** The worst outcome of some checks, and a badge that tells how many. */
const worst = ({ failed, warned, checked }) => (failed ? "failed" : warned ? "warned" : checked ? "passed" : "unchecked");
function checksBadge(counts, what = "") {
  const parts = [counts.failed && `${counts.failed} failed`, counts.warned && `${counts.warned} warned`].filter(Boolean);
  return badge(worst(counts), (parts.join(", ") || (counts.checked ? "passed" : "not checked")) + what);
}

/** A choice of one of several; options are [value, text]. */
function choice(label, options, chosen, onchange) {
  const pick = (event) => onchange(event.target.value);
  const list = options.map(([value, text]) => el("option", { value, selected: String(value) === String(chosen) }, text));
  return el("select", { "aria-label": label, onchange: pick }, list);
}

/** Text that is kept compressed in an element of the page. */
async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

/** Whether the page is on its way to the printer; what is called by `whenPrinting` then looks as it should on paper. */
let printing = false;
const printed = [];
const whenPrinting = (act) => printed.push(act);
for (const [event, state] of [["beforeprint", true], ["afterprint", false]])
  window.addEventListener(event, () => {
    printing = state;
    document.documentElement.classList.toggle("printing", state);
    printed.forEach((act) => act());
  });

/** On paper nothing can be opened: everything is open there, and as it was afterwards. */
let opened = [];
whenPrinting(() => {
  if (printing) opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((details) => (details.open = printing));
});

/** Call `show` when the element is about to be seen, or printed. */
const awaited = new Map();
const watcher = new IntersectionObserver((entries) => entries.forEach((entry) => entry.isIntersecting && reveal(entry.target)), {
  rootMargin: "300px",
});
function whenSeen(element, show) {
  awaited.set(element, show);
  watcher.observe(element);
}
function reveal(element) {
  watcher.unobserve(element);
  awaited.get(element)?.();
  awaited.delete(element);
}
whenPrinting(() => printing && [...awaited.keys()].filter((element) => element.offsetParent).forEach(reveal));
