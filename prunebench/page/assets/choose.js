// Choose: the best method for what one may spend, and the cheapest for what one may lose.

/** The costs that the leaderboard has, as shares of the unpruned model. */
function costsOf(rows) {
  return COSTS.filter((name) => /share|ratio/.test(name) && rows.some((row) => typeof row[name] === "number" && row.method !== BASELINE));
}

/** The view that chooses. */
function chooseView(main) {
  const all = filtered(boardRows());
  const rows = all.filter((row) => typeof row.accuracy === "number");
  const compared = rows.filter((row) => row.method !== BASELINE);
  const costs = costsOf(compared);
  if (!costs.length) {
    main.append(element("p", { className: "note" }, "No method that the filters leave has both accuracy and a cost."));
    return;
  }
  const cost = costs.includes(STATE.cost) ? STATE.cost : usualCost(costs, compared);
  const spend = Number(STATE.spend ?? 0.26);
  const loss = Number(STATE.loss ?? 0.02);
  besideFilters(
    select("what it costs", "cost", costs.map((name) => [name, SPENT[name] || words(name)]), cost),
    amount("I may spend at most (share)", "spend", spend, "a share of the unpruned model's, such as 0.25"),
    amount("I may lose at most (accuracy)", "loss", loss, "of accuracy, such as 0.02"),
  );
  const priced = sound(compared, cost, "accuracy").filter((row) => typeof row[cost] === "number");
  for (const model of distinct(compared, "model")) {
    const of = priced.filter((row) => row.model === model);
    if (distinct(compared, "model").length > 1) main.append(element("h2", {}, model));
    main.append(element("h3", {}, `Most accurate with at most ${percent(spend)} of the unpruned model's ${SPENT[cost] || words(cost)}`));
    main.append(byBudget(of, cost, spend));
    main.append(element("h3", {}, `Cheapest that loses at most ${Number(loss)} of accuracy`));
    main.append(byLoss(of, cost, loss));
  }
  main.append(element("p", { className: "quiet" }, aboutChoice(compared.length - sound(compared, cost, "accuracy").length)));
}

/** What the cards say, in a few lines. */
function aboutChoice(busy) {
  const parts = [
    "What a method loses is its accuracy less that of the unpruned model on the same questions, with a 95\u00a0% interval",
    "Safe: the whole interval stays within what may be lost", "On average: its middle does, but the sample is too small to say more",
    "Whether a method differs from the best at its budget is tested on the same questions, with Holm's correction (table pairs); where no test was made, intervals of one method at a time are all there is",
    "Controls choose tokens by no idea: a method that does not beat them is no choice",
  ];
  if (busy) parts.push(`${busy} rows were timed on a busy machine and are left out`);
  return `${parts.join(". ")}.`;
}

/** A field for a number. */
function amount(label, name, value, hint) {
  const input = element("input", { type: "number", step: "0.01", min: "0", value: String(value), title: hint });
  input.addEventListener("change", () => setState({ [name]: input.value }));
  return element("label", { className: "field" }, label, input);
}

/** The best few at what may be spent. */
function byBudget(rows, cost, spend) {
  const affordable = rows.filter((row) => row[cost] <= spend * 1.005 + 1e-9);
  affordable.sort((one, other) => other.accuracy - one.accuracy || one[cost] - other[cost]);
  if (!affordable.length) {
    const text = rows.length ? `Nothing costs so little; the least is ${percent(Math.min(...rows.map((row) => row[cost])))}.` : NO_COST;
    return element("p", { className: "note" }, text);
  }
  const seen = new Set();
  const best = affordable.filter((row) => !seen.has(row.method) && seen.add(row.method));
  const top = best[0];
  const cards = element("div", { className: "cards" });
  for (const row of best.slice(0, 6)) {
    const card = choice(row, cost, row === top ? mark("best", "good") : besideBest(row, top));
    card.classList.toggle("best", row === top);
    cards.append(card);
  }
  return cards;
}

/** Whether a row differs from the best one: by the test of the two, where the study has made it. */
function besideBest(row, top) {
  const pair = pairOf(row, top);
  if (pair) {
    const differs = pair.verdict === "worse" || pair.verdict === "better";
    return differs ? mark("worse than the best", "bad") : mark("no difference from the best shown");
  }
  // an interval that holds the best one's middle is no proof that both are equal, but a warning
  return typeof row.accuracy_high === "number" && row.accuracy_high >= top.accuracy ? mark("its interval reaches the best") : "";
}

/** The row of the table of pairs that compares two rows; it knows all kinds of questions together. */
function pairOf(one, other) {
  const pairs = table("pairs");
  if (!pairs || STATE.type || budgetKey(one) !== budgetKey(other)) return undefined;
  return pairs.rows.find((pair) => pair.model === one.model && pair.task === one.task && budgetKey(pair) === budgetKey(one) &&
    [[one, other], [other, one]].some(([first, second]) => pair.method === first.method && pair.other === second.method));
}

const NO_COST = "No method that the filters leave has this cost.";

/** Of every method its cheapest budget at which it loses no more than that. */
function byLoss(rows, cost, loss) {
  const cheapest = new Map();
  for (const row of rows) {
    const grade = lossGrade(row, loss);
    if (grade === null) continue;
    const other = cheapest.get(row.method);
    if (!other || row[cost] < other.row[cost]) cheapest.set(row.method, { row, grade });
  }
  const best = [...cheapest.values()];
  best.sort((one, other) => other.grade - one.grade || one.row[cost] - other.row[cost] || other.row.accuracy - one.row.accuracy);
  if (!best.length) {
    const parts = rows.length ? ["No method at any budget loses so little here, not even on average.", leastLost(rows)] : [NO_COST];
    if (STATE.type && rows.length) parts.push("Losses of one kind of question are taken from its accuracies.");
    return element("p", { className: "note" }, parts.filter(Boolean).join(" "));
  }
  const cards = element("div", { className: "cards" });
  best.slice(0, 6).forEach(({ row, grade }, place) => {
    const card = choice(row, cost, grade === 2 ? mark("safe", "good") : mark("on average"));
    card.classList.toggle("best", place === 0);
    cards.append(card);
  });
  return cards;
}

/** Which row loses least, so that one knows how much to allow. */
function leastLost(rows) {
  const measured = rows.filter((row) => differenceOf(row) !== null);
  if (!measured.length) return "";
  const least = measured.reduce((one, other) => (differenceOf(other) > differenceOf(one) ? other : one));
  return `The least is lost by ${least.method} at ${budgetLabel(least)}: ${lossText(least)}.`;
}

/** What a row's accuracy is above that of the unpruned model; null where nothing says it. */
const differenceOf = (row) => (typeof row.difference_to_none === "number" ? row.difference_to_none : ofKind(row));

/** 2 where a row surely loses no more, 1 where it does so on average, null where it loses more. */
function lossGrade(row, loss) {
  const difference = differenceOf(row);
  if (difference === null || difference < -loss - 1e-9) return null;
  return typeof row.difference_to_none_low === "number" && row.difference_to_none_low >= -loss - 1e-9 ? 2 : 1;
}

/** What a row of one kind of question loses, where the table has the unpruned model's accuracy. */
function ofKind(row) {
  return typeof row.unpruned === "number" ? row.accuracy - row.unpruned : null;
}

/** One method as a card. */
function choice(row, cost, badge) {
  const open = () => setState({ view: "methods", method: row.method }, "push");
  return element("section", { className: "card" },
    element("h3", {}, named(row.method), row.control === "true" ? mark("control") : null, badge || null),
    element("p", {}, element("span", { className: "big" }, number(row.accuracy)), " ", element("span", { className: "quiet" }, `accuracy at ${row.budget === "own" ? "its own operating point" : budgetLabel(row)}`)),
    element("p", { className: "quiet" }, intervalText(row, "accuracy"), `n\u00a0${row.n ?? "?"}`),
    element("p", { className: "quiet" }, `${percent(row[cost])} of the ${SPENT[cost] || words(cost)}`),
    element("p", { className: "quiet" }, lossText(row)),
    element("p", {}, element("button", { type: "button", onclick: open, "aria-label": `about ${row.method}` }, "about it")),
  );
}

/** The ends of a number's interval, in front of what else is said. */
const intervalText = (row, name) => (typeof row[`${name}_low`] === "number" ? `${number(row[`${name}_low`])} to ${number(row[`${name}_high`])}, ` : "");

/** What a row loses, in a line. */
function lossText(row) {
  const difference = differenceOf(row);
  if (difference === null) return "not compared with the unpruned model";
  if (typeof row.difference_to_none !== "number") return `${signed(difference)} against unpruned, no interval`;
  const ends = typeof row.difference_to_none_low === "number" ? ` (${signed(row.difference_to_none_low)} to ${signed(row.difference_to_none_high)})` : "";
  return `${signed(difference)}${ends} against unpruned`;
}

const signed = (value) => `${value > 0 ? "+" : ""}${number(value)}`;
