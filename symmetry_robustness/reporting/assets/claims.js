// What the paper claims, beside what was measured.

const VERDICTS = { holds: "passed", "holds only under the released protocol": "warned", "does not hold": "failed", "not measured": null };

function claimsSection() {
  const counts = Object.keys(VERDICTS).map((verdict) => [verdict, data.claims.filter((claim) => claim.verdict === verdict).length]);
  const judged = data.claims.filter((claim) => VERDICTS[claim.verdict]).length;
  const words = counts.filter(([, count]) => count).map(([verdict, count]) => `${verdict}: ${count}`).join(" · ");
  return [
    el("p", {}, `${plural(data.claims.length, "number")} of the paper (arXiv 2510.16171). ${words}.`),
    el("p", { class: "hint" }, "A verdict needs enough seeds of networks trained as the paper says. “Re-enacted” is the released scripts’ evaluation, mistakes included; “sound” is ours."),
    el("details", { open: judged > 0 }, el("summary", {}, "Each claim beside its measurement"), claimsTable()),
  ];
}

function claimsTable() {
  const shown = (claim, value) => (claim.kind === "exact" ? value.toLocaleString("en") : percent(value, Math.abs(value) < 0.01 ? 2 : 1));
  const measured = (claim, found) => {
    if (!found) return "–";
    const range = isNumber(found.low) && found.seeds > 1 ? `${percent(found.low)} to ${percent(found.high)}, ` : "";
    return withDoubt(shown(claim, found.value), claim.kind === "exact" ? "" : `${range}${plural(found.seeds, "seed")}`);
  };
  const verdict = (claim) => [VERDICTS[claim.verdict] ? badge(VERDICTS[claim.verdict], claim.verdict) : claim.verdict, claim.reason && el("small", {}, claim.reason)];
  const rank = (claim) => Object.keys(VERDICTS).indexOf(claim.verdict);
  return dataTable({
    caption: "Claims of the paper",
    rows: [...data.claims].sort((a, b) => rank(a) - rank(b)),
    facets: { network: (claim) => claim.network, "data set": (claim) => claim.data, verdict: (claim) => claim.verdict },
    columns: () => [
      textColumn("Network", (claim) => claim.network),
      textColumn("What", (claim) => named(claim.what)),
      textColumn("Data", (claim) => claim.data),
      { title: "ε", number: true, value: (claim) => claim.epsilon, cell: (claim) => (claim.epsilon == null ? "–" : withDoubt(epsilonName(claim.epsilon), `paper: ${claim.published_epsilon}`)) },
      { title: "Paper", number: true, value: (claim) => claim.claimed, cell: (claim) => shown(claim, claim.claimed) },
      { title: "Re-enacted", number: true, value: (claim) => claim.released?.value, cell: (claim) => measured(claim, claim.released) },
      { title: "Sound", number: true, value: (claim) => claim.sound?.value, cell: (claim) => measured(claim, claim.sound) },
      { title: "Verdict", value: (claim) => claim.verdict, kind: "verdict", cell: verdict },
      { title: "Source", value: (claim) => claim.source, kind: "verdict", cell: (claim) => el("small", {}, claim.source) },
    ],
  });
}
