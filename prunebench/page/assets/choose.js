// Choose: the best method for what one may spend, and the cheapest for what one may lose.

/** The costs that the leaderboard has, as shares of the unpruned model. */
function costsOf(rows) {
  return COSTS.filter((name) => /share|ratio/.test(name) && rows.some((row) => typeof row[name] === "number" && row.method !== BASELINE));
}

/** The view that chooses. */
function chooseView(main) {
  const rows = filtered(boardRows()).filter((row) => typeof row.accuracy === "number");
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
    select("what it costs", "cost", costs.map((name) => [name, words(name)]), cost),
    amount("I may spend at most", "spend", spend, "a share of the unpruned model's, such as 0.25"),
    amount("I may lose at most", "loss", loss, "of accuracy, such as 0.02"),
  );
  for (const model of distinct(compared, "model")) {
    const of = compared.filter((row) => row.model === model);
    if (distinct(compared, "model").length > 1) main.append(element("h2", {}, model));
    main.append(element("h3", {}, `Most accurate at ${words(cost)} of at most ${number(spend)}`));
    main.append(byBudget(of, cost, spend));
    main.append(element("h3", {}, `Cheapest that loses at most ${number(loss)}`));
    main.append(byLoss(of, cost, loss));
  }
  main.append(element("p", { className: "quiet" },
    "What a method loses is its accuracy less that of the unpruned model on the same questions, with a 95 % interval. " +
    "Safe: the whole interval stays within what may be lost. On average: its middle does, but the sample is too small to say more. " +
    "Intervals are of one method at a time: whether two methods differ is another question."));
}

/** A field for a number. */
function amount(label, name, value, hint) {
  const input = element("input", { type: "number", step: "0.01", min: "0", value: String(value), title: hint });
  input.addEventListener("change", () => setState({ [name]: input.value }));
  return element("label", { className: "field" }, label, input);
}

/** The best few at what may be spent. */
function byBudget(rows, cost, spend) {
  const affordable = rows.filter((row) => typeof row[cost] === "number" && row[cost] <= spend * 1.005 + 1e-9);
  affordable.sort((one, other) => other.accuracy - one.accuracy || one[cost] - other[cost]);
  if (!affordable.length) {
    const least = Math.min(...rows.map((row) => row[cost]).filter((value) => typeof value === "number"));
    return element("p", { className: "note" }, `Nothing costs so little; the least is ${number(least)}.`);
  }
  const seen = new Set();
  const best = affordable.filter((row) => !seen.has(row.method) && seen.add(row.method));
  const top = best[0];
  const cards = element("div", { className: "cards" });
  for (const row of best.slice(0, 6)) {
    // an interval that holds the best one's middle is no proof that both are equal, but a warning
    const near = row !== top && typeof row.accuracy_high === "number" && row.accuracy_high >= top.accuracy;
    cards.append(choice(row, cost, row === top ? mark("best", "good") : near ? mark("its interval reaches the best") : ""));
  }
  return cards;
}

/** Of every method its cheapest budget at which it loses no more than that. */
function byLoss(rows, cost, loss) {
  const cheapest = new Map();
  for (const row of rows) {
    if (typeof row[cost] !== "number") continue;
    const grade = lossGrade(row, loss);
    if (grade === null) continue;
    const other = cheapest.get(row.method);
    if (!other || row[cost] < other.row[cost]) cheapest.set(row.method, { row, grade });
  }
  const best = [...cheapest.values()];
  best.sort((one, other) => other.grade - one.grade || one.row[cost] - other.row[cost] || other.row.accuracy - one.row.accuracy);
  if (!best.length) {
    const text = "No method at any budget loses so little here, not even on average.";
    return element("p", { className: "note" }, STATE.type ? `${text} Losses of one kind of question are taken from its accuracies.` : text);
  }
  const cards = element("div", { className: "cards" });
  best.slice(0, 6).forEach(({ row, grade }, place) => {
    const card = choice(row, cost, grade === 2 ? mark("safe", "good") : mark("on average"));
    card.classList.toggle("best", place === 0);
    cards.append(card);
  });
  return cards;
}

/** 2 where a row surely loses no more, 1 where it does so on average, null where it loses more. */
function lossGrade(row, loss) {
  const difference = typeof row.difference_to_none === "number" ? row.difference_to_none : ofKind(row);
  if (difference === null || difference < -loss - 1e-9) return null;
  return typeof row.difference_to_none_low === "number" && row.difference_to_none_low >= -loss - 1e-9 ? 2 : 1;
}

/** What a row of one kind of question loses, where the table has the unpruned model's accuracy. */
function ofKind(row) {
  return typeof row.unpruned === "number" ? row.accuracy - row.unpruned : null;
}

/** One method as a card. */
function choice(row, cost, badge) {
  const card = element("section", { className: "card" });
  if (badge && badge.textContent === "best") card.classList.add("best");
  const open = () => setState({ view: "methods", method: row.method }, "push");
  card.append(
    element("h3", {}, named(row.method), badge || null),
    element("p", {}, element("span", { className: "big" }, number(row.accuracy)), " ", element("span", { className: "quiet" }, `accuracy at ${budgetLabel(row)}`)),
    element("p", { className: "quiet" }, `${words(cost)} ${number(row[cost])}; n\u00a0${row.n ?? "?"}`),
    lossLine(row),
    element("p", {}, element("button", { type: "button", onclick: open }, "about it")),
  );
  return card;
}

/** What it loses, in a line. */
function lossLine(row) {
  if (typeof row.difference_to_none !== "number") {
    const difference = ofKind(row);
    return element("p", { className: "quiet" }, difference === null ? "not compared with the unpruned model" : `${signed(difference)} against unpruned, no interval`);
  }
  const ends = typeof row.difference_to_none_low === "number" ? ` (${signed(row.difference_to_none_low)} to ${signed(row.difference_to_none_high)})` : "";
  return element("p", { className: "quiet" }, `${signed(row.difference_to_none)}${ends} against unpruned`);
}

const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${number(Math.abs(value))}`;
