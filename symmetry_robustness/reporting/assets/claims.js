// What the paper claims, beside what was measured.

const VERDICTS = { holds: "passed", "does not hold": "failed", "holds only under the released protocol": "warned" };

function claimsTable() {
  const measured = (found) => (found ? withDoubt(percent(found.value), `${isNumber(found.low) ? `${percent(found.low)} to ${percent(found.high)}, ` : ""}${plural(found.seeds, "seed")}`) : "not measured");
  return dataTable({
    caption: "Claims of the paper",
    rows: data.claims,
    facets: { verdict: (row) => row.verdict, source: (row) => row.source },
    columns: () => [
      textColumn("Claim", (row) => row.claim), textColumn("Source", (row) => row.source),
      { title: "Claimed", number: true, value: (row) => row.claimed, cell: (row) => percent(row.claimed) },
      { title: "Re-enacted", number: true, value: (row) => row.released?.value, cell: (row) => measured(row.released) },
      { title: "Measured soundly", number: true, value: (row) => row.sound?.value, cell: (row) => measured(row.sound) },
      { title: "Verdict", value: (row) => row.verdict, cell: (row) => (VERDICTS[row.verdict] ? badge(VERDICTS[row.verdict], row.verdict) : row.verdict) },
    ],
  });
}
