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

/** What is to be said of rows whose two numbers are not of the same questions. */
function asked(rows) {
  const others = rows.filter((row) => row.questions === "others").length;
  if (!others) return "";
  return others === rows.length ? "; here they asked others, so that nothing is paired" : `; ${others} rows are of other questions, or of a metric that is no mean of them, and not paired`;
}

/** How far the two studies rank methods alike, a line a place. */
function rankings(main, rows) {
  if (!rows.length) return;
  const text = (row) => {
    const where = [row.model, row.task, budgetLabel(row)].join(", ");
    if (row.tau === null) return `${where}: ${row.methods} methods are all equal`;
    const ends = row.low === null ? "" : ` [${row.low.toFixed(2)}, ${row.high.toFixed(2)}]`;
    return `${where}: ${row.tau.toFixed(2)}${ends} of ${row.methods} methods`;
  };
  main.append(element("details", {},
    element("summary", {}, "How far they rank methods alike: Kendall's tau, 1 for the same order"),
    element("ul", {}, ...rows.map((row) => element("li", {}, text(row))))));
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
    `Score here less score there with a 95 % interval, on the questions that both answered where they asked the same${asked(rows)}; of ${tested} tests ${byChance(tested)} by chance where nothing changed.`));
  if (other.beside) main.append(element("p", { className: "quiet" }, `There ${other.beside} here.`));
  rankings(main, filtered(other.rankings));
  const names = ["verdict", "model", "method", "budget", "task", "score", "score_there", "difference", "p", "n", "questions", "settings", "settings_there", "tokens_mean", "tokens_mean_there", "flops_total", "flops_total_there", "evidence_recall", "evidence_recall_there", "latency_total_ratio", "latency_total_ratio_there"];
  const plain = ["model", "task", "questions"];
  const used = names.filter((name) => rows.some((row) => filled(row[name])) && !(plain.includes(name) && distinct(rows, name).filter(filled).length < 2));
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
