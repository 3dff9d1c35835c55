// Methods: what each one is, how far it was checked, and what it did in this study.

/** The view of methods: a list, and one of them in full. */
function methodsView(main) {
  const board = table("leaderboard");
  const rows = board ? board.rows : [];
  const all = distinct(rows, "method");
  const find = (STATE.find || "").toLowerCase();
  const methods = all.filter((method) => method.toLowerCase().includes(find));
  if (!methods.length) {
    main.append(element("p", { className: "note" }, "No method has that in its name."));
    return;
  }
  const method = methods.includes(STATE.method) ? STATE.method : methods.find((one) => !(LOOKS.get(one) || {}).control) || methods[0];
  const list = element("div", { className: "list", role: "group", "aria-label": "methods" });
  for (const one of methods) {
    const current = one === method;
    const button = element("button", { type: "button", "aria-current": current ? "true" : null, onclick: () => setState({ method: one }) }, symbol(one), element("span", {}, one));
    list.append(button);
  }
  const detail = element("article");
  main.append(element("div", { className: "split" }, list, detail));
  arrows(list);
  methodDetail(detail, method);
}

/** Let the arrow keys move through a list of buttons. */
function arrows(list) {
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const buttons = [...list.querySelectorAll("button")];
    const next = buttons[buttons.indexOf(document.activeElement) + step];
    if (next) next.focus();
  });
}

/** One method in full. */
function methodDetail(node, method) {
  const facts = DATA.methods[method] || {};
  node.append(element("h2", {}, named(method), facts.title ? element("span", { className: "quiet" }, ` ${facts.title}`) : ""));
  if (facts.idea) node.append(element("p", {}, capital(facts.idea)));
  const list = element("dl", { className: "facts" });
  const entry = (name, ...value) => {
    if (value.some((part) => part !== "" && part !== null && part !== undefined)) list.append(element("dt", {}, name), element("dd", {}, ...value));
  };
  const vectors = /vector/.test(facts.status || "") ? element("span", { className: "quiet" }, " (a vector: an input on which the official code and this one keep the same tokens)") : "";
  if (facts.status) entry("checked", facts.status, vectors);
  entry("departs from the official code", facts.variant || "");
  if (facts.reconstruction) entry("reconstruction", "built from the paper, without official code that prunes in this way");
  entry("paper", link(facts.paper));
  entry("official code", link(facts.code));
  entry("defaults", facts.settings || "");
  const ran = distinct(table("leaderboard").rows.filter((row) => row.method === method), "settings").filter((one) => one && one !== "{}");
  entry("settings here", ...ran.map((one) => element("code", {}, one)));
  const ports = distinct(table("leaderboard").rows.filter((row) => row.method === method), "port").filter(Boolean);
  entry("stands in", ports.join("; "));
  if (facts.missing) entry("not known", facts.missing);
  node.append(list);
  if (facts.notes) {
    node.append(element("h3", {}, "In full, with what it knows of the official code"), element("div", { className: "prose" }, ...withCode(facts.notes)));
  }
  methodNumbers(node, method);
}

/** A text whose words between backticks are code; as it stands where one of them is alone. */
function withCode(text) {
  const parts = text.split("`");
  if (parts.length % 2 === 0) return [text];
  return parts.map((part, place) => (place % 2 ? element("code", {}, part) : part));
}

/** Its rows, and its line among all others. */
function methodNumbers(node, method) {
  const rows = boardRows().filter((row) => row.method === method && (!STATE.model || row.model === STATE.model) && (!STATE.task || row.task === STATE.task));
  if (!rows.length) return;
  node.append(element("h3", {}, "In this study"));
  const columns = boardColumns();
  const names = usualColumns(columns, rows).filter((name) => name !== "method");
  const place = element("div");
  node.append(place);
  drawTable(place, names.map((name) => columns.get(name)), rows, { label: `rows of ${method}` });
  const reasons = distinct(rows, "reason").filter(Boolean);
  for (const reason of reasons) node.append(element("p", { className: "note" }, reason));
  printedNumbers(node, rows, columns);
  layersOf(node, method);
  const x = COSTS.find((name) => rows.some((row) => typeof row[name] === "number"));
  if (!x || method === BASELINE) return;
  const models = distinct(rows.filter((row) => typeof row[x] === "number" && typeof row.accuracy === "number"), "model");
  for (const model of models) {
    const others = boardRows().filter((row) => row.model === model && (!STATE.task || row.task === STATE.task) && typeof row[x] === "number" && typeof row.accuracy === "number");
    const plot = element("div", { className: "plot", role: "img", "aria-label": `accuracy of ${method} on ${model}` });
    node.append(element("h3", {}, `Among all others, ${model}`), plot);
    chart(plot, others, columns, { x, y: "accuracy", coloured: new Set([method]), log: true });
  }
  if (models.length) node.append(element("p", { className: "quiet" }, aboutPlot(columns, boardRows(), x, "accuracy")));
}

/** What papers print of it, beside what was measured here. */
function printedNumbers(node, rows, columns) {
  const printed = [...columns.keys()].filter((name) => /^published_/.test(name) && rows.some((row) => filled(row[name])));
  if (!printed.length) return;
  const several = (name) => !["model", "task"].includes(name) || distinct(rows, name).length > 1;
  const names = ["model", "budget", "task", "accuracy", "relative_accuracy", ...printed].filter((name) => columns.has(name) && several(name));
  const place = element("div");
  node.append(element("h3", {}, "What papers print"), place);
  drawTable(place, names.map((name) => columns.get(name)), rows.filter((row) => printed.some((name) => filled(row[name]))), { label: "what papers print", loose: true });
}

const capital = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);
