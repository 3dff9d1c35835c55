// Contrast: this study beside another one, regressions first.

const VERDICTS = ["worse", "better", "no difference shown", "not compared"];

/** How a verdict is marked. */
function verdict(value) {
  const kind = value.startsWith("worse") ? "bad" : value.startsWith("better") ? "good" : "";
  return mark(value, kind);
}

/** Where a verdict stands among others: what went wrong first. */
const verdictOrder = (row) => VERDICTS.findIndex((one) => row.verdict.startsWith(one));

/** How many of so many comparisons are marked though nothing changed. */
function byChance(count) {
  const expected = Math.round(0.05 * count);
  return expected < 2 ? `${expected ? "one is" : "hardly one is"} marked` : `about ${expected} are marked`;
}

/** The view that compares two studies. */
function contrastView(main) {
  const other = DATA.contrast;
  const rows = filtered(other.rows).map((row) => ({ ...row }));
  rows.sort((one, two) => verdictOrder(one) - verdictOrder(two) || (one.difference ?? 0) - (two.difference ?? 0));
  main.append(element("h2", {}, `${DATA.study} against ${other.name}`));
  const count = (start) => rows.filter((row) => row.verdict.startsWith(start)).length;
  const tested = rows.filter((row) => typeof row.p === "number").length;
  main.append(element("p", {},
    verdict(`worse: ${count("worse")}`), " ", verdict(`better: ${count("better")}`), " ", mark(`no difference shown: ${count("no")}`), " ", mark(`not compared: ${count("not")}`)));
  main.append(element("p", { className: "quiet" },
    `Score here less score there on the questions that both answered, with a 95 % interval; of ${tested} comparisons ${byChance(tested)} by chance where nothing changed.`));
  const names = ["verdict", "model", "method", "budget", "task", "score", "score_there", "difference", "p", "n", "tokens_mean", "tokens_mean_there", "flops_total", "flops_total_there", "evidence_recall", "evidence_recall_there", "latency_total_ratio", "latency_total_ratio_there"];
  const used = names.filter((name) => rows.some((row) => filled(row[name])) && !(["model", "task"].includes(name) && distinct(rows, name).length < 2));
  const columns = used.map((name) => ({ name, kind: rows.some((row) => typeof row[name] === "number") ? "number" : "text" }));
  for (const row of rows) {
    row.difference_low = row.low;
    row.difference_high = row.high;
  }
  const node = element("div", { id: "contrast" });
  main.append(node);
  drawTable(node, columns, rows, { label: "two studies", loose: true, onRow: (row) => setState({ view: "methods", method: row.method }, "push") });
  for (const [name, where] of [["only_here", DATA.study], ["only_there", other.name]]) {
    if (!other[name].length) continue;
    const texts = other[name].map((row) => `${row.model}: ${row.method} ${budgetLabel(row)}, ${row.task}`);
    const details = element("details", {}, element("summary", {}, `${texts.length} only in ${where}`), element("p", {}, texts.join("; ")));
    main.append(details);
  }
}
