// Table: any table of the study, sorted by a click or a key on its heading, with the columns that
// a reader wants.

const FIRST_COLUMNS = [
  "accuracy", "relative_accuracy", "difference_to_none", "against_none", "tokens_mean_share", "tokens_kv_share",
  "flops_ratio", "total_ratio", "evidence_recall", "fidelity", "right_to_wrong", "wrong_to_right", "difference_to_random",
  "against_random", "better_than_random", "hard", "published_own", "published_least", "published_most", "n", "status",
];
const FIRST_OF_PAIRS = ["other", "verdict", "difference", "p_holm", "n"];
const HEADLINE = "headline";
const MOST_WIDTH = 380;
const STATUS = { ok: "good", failed: "bad", oom: "bad" };

let grid = null;

/** A sorter that leaves what is missing at the end, whichever way one sorts. */
function sorter(one, other, _row, _otherRow, _column, direction) {
  const missing = (value) => value === null || value === undefined || value === "";
  if (missing(one) || missing(other)) {
    if (missing(one) && missing(other)) return 0;
    return (missing(one) ? 1 : -1) * (direction === "desc" ? -1 : 1);
  }
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(one).localeCompare(String(other), undefined, { numeric: true });
}

/** A heading: the column's words, and what it says as a tooltip. */
function heading(column) {
  return () => element("span", { title: about(column) }, words(column.name));
}

/** How a value is shown. */
function shown(row, column) {
  const value = row[column.name];
  if (column.name === "method" || column.name === "other") return named(value);
  if (column.name === "budget") return budgetLabel(row);
  if (column.name === "status" || column.name === "better_than_random") {
    return value ? mark(value, STATUS[value] || (value === "yes" ? "good" : "")) : "";
  }
  if (column.name === "accuracy" && !filled(value) && row.status) return why(row);
  if (column.name === "verdict" || /^against_/.test(column.name)) return value ? verdict(value) : "";
  return column.kind === "number" ? withInterval(row, column.name) : String(value ?? "");
}

/** What stands where a row has no accuracy: how it ended, and as a tooltip why. */
function why(row) {
  const node = mark(row.status, STATUS[row.status]);
  node.title = row.reason || "";
  return node;
}

const MEASURE = document.createElement("canvas").getContext("2d");

/** Pixels that the longest value of a column takes: Tabulator measures what happens to be drawn. */
function needed(column, rows) {
  MEASURE.font = `14px ${getComputedStyle(document.body).fontFamily}`;
  const extra = column.name === "method" ? 46 : 26;
  let widest = 40;
  for (const row of rows.slice(0, 500)) {
    const value = shown(row, column);
    const text = value instanceof Node ? value.textContent : value;
    widest = Math.max(widest, MEASURE.measureText(text).width + extra);
  }
  return Math.ceil(widest);
}

/** Draw a table into a node. */
function drawTable(node, columns, rows, { onRow, label, loose } = {}) {
  const wide = window.innerWidth > 760;
  const definitions = columns.map((column) => ({
    field: column.name,
    title: column.name,
    titleFormatter: heading(column),
    // Tabulator takes a node as it is; a text it would take for HTML
    formatter: (cell) => element("span", {}, shown(cell.getData(), column)),
    sorter,
    headerSortStartingDir: column.kind === "number" && column.better !== "lower" ? "desc" : "asc",
    cssClass: column.kind === "number" ? "right" : "",
    hozAlign: column.kind === "number" ? "right" : "left",
    frozen: loose ? false : wide ? column.name === "method" || column.name === "budget" : column.name === "method",
    minWidth: Math.min(needed(column, rows), MOST_WIDTH),
    maxWidth: MOST_WIDTH,
    tooltip: false,
  }));
  for (const definition of definitions) {
    if (definition.field === "budget") {
      definition.sorter = (_one, _other, row, other) => budgetOrder(row.getData()) - budgetOrder(other.getData());
    }
  }
  const drawn = new Tabulator(node, {
    data: rows,
    columns: definitions,
    layout: "fitDataFill",
    height: rows.length > 18 ? "min(70vh, 46rem)" : undefined,
    placeholder: "no row is left by the filters",
    columnDefaults: { resizable: "header" },
    selectableRows: onRow ? true : false,
    nestedFieldSeparator: false,
    rowFormatter: (row) => row.getElement().classList.toggle("control", row.getData().control === "true"),
  });
  if (onRow) drawn.on("rowClick", (_event, row) => onRow(row.getData()));
  drawn.on("tableBuilt", () => reachable(node, drawn, label));
  drawn.on("dataSorted", () => requestAnimationFrame(() => reachable(node, drawn, label)));
  return drawn;
}

/** Headings that the keyboard reaches, and that say how they are sorted. */
function reachable(node, drawn, label) {
  if (label) node.setAttribute("aria-label", label);
  for (const heading of node.querySelectorAll(".tabulator-col[tabulator-field]")) {
    if (heading.tabIndex === 0) continue;
    heading.tabIndex = 0;
    heading.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      const descending = heading.getAttribute("aria-sort") !== "descending";
      drawn.setSort(heading.getAttribute("tabulator-field"), descending ? "desc" : "asc");
    });
  }
}

/** The columns that are worth showing first: names that differ, the headline, whatever is unknown. */
function usualColumns(columns, rows) {
  const names = [];
  for (const name of ["model", "method", "budget", "task", "type", "metric", "value"]) {
    if (!columns.has(name)) continue;
    if (["model", "task", "type"].includes(name) && distinct(rows, name).length < 2) continue;
    names.push(name);
  }
  const known = FIRST_COLUMNS.filter((name) => columns.has(name) && rows.some((row) => filled(row[name])));
  const marked = known.includes("against_random");
  if (columns.has("accuracy")) return names.concat(known.filter((name) => !marked || name !== "better_than_random"), unknownColumns(columns, rows));
  // what a table of pairs is read for stands first; controls are grey
  for (const name of [...FIRST_OF_PAIRS.filter((one) => columns.has(one)), ...columns.keys()]) {
    if (name === "control") continue;
    const interval = /_(low|high)$/.test(name) && columns.has(name.replace(/_(low|high)$/, ""));
    if (!names.includes(name) && !KEY.includes(name) && !interval && rows.some((row) => filled(row[name]))) names.push(name);
  }
  return names;
}

const filled = (value) => value !== null && value !== undefined && value !== "";

/** Numbers that nobody declared: another part of the program has put them there, and they count. */
function unknownColumns(columns, rows) {
  const names = [];
  for (const [name, column] of columns) {
    if (column.about || column.kind !== "number" || FIRST_COLUMNS.includes(name)) continue;
    if (/_(low|high|p|holm)$/.test(name) || KEY.includes(name)) continue;
    if (rows.some((row) => filled(row[name]))) names.push(name);
  }
  return names.slice(0, 6);
}

/** The view of tables. */
function boardView(main) {
  const names = Object.keys(DATA.tables);
  const name = names.includes(STATE.table) ? STATE.table : names[0];
  if (!name) {
    main.append(element("p", { className: "note" }, "This study has no table yet."));
    return;
  }
  if (names.length > 1) {
    const options = names.map((one) => [one, words(one)]);
    besideFilters(select("table", "table", options, name, () => ({ columns: "" })));
  }
  const onBoard = name === "leaderboard";
  const columns = onBoard ? boardColumns() : table(name).columns;
  const source = onBoard ? boardRows() : table(name).rows.filter((row) => !STATE.type || !("type" in row) || row.type === STATE.type);
  const rows = filtered(source);
  if (columns.has("type") && columns.has("accuracy") && !STATE.type) {
    document.getElementById("filters").append(tick("a column a kind", "wide", "yes"));
    if (ticked("wide", "yes")) {
      byKind(main, rows);
      return;
    }
  }
  const usual = usualColumns(columns, rows);
  const picked = STATE.columns ? STATE.columns.split(",").filter((one) => columns.has(one)) : usual;
  main.append(columnPicker(columns, picked, usual, `${rows.length} of ${source.length} rows`));
  if (table(name).leftOut) {
    const text = `${name}.csv has ${table(name).leftOut + table(name).rows.length} rows; the first ${table(name).rows.length} are shown.`;
    main.append(element("p", { className: "note" }, text));
  }
  const node = element("div", { id: "grid" });
  main.append(node);
  const chosen = picked.map((one) => columns.get(one));
  const onRow = columns.has("method") ? (row) => setState({ view: "methods", method: row.method }, "push") : null;
  grid = drawTable(node, chosen, rows, { onRow, label: words(name) });
}

/** A row a method and budget, a column a kind of question: its accuracy with the interval. */
function byKind(main, rows) {
  const kinds = distinct(rows, "type").sort((one, other) => (other === HEADLINE) - (one === HEADLINE));
  const merged = new Map();
  for (const row of rows) {
    const key = keyOf(row);
    const control = String((LOOKS.get(row.method) || {}).control === true);
    if (!merged.has(key)) merged.set(key, Object.fromEntries([...KEY.map((name) => [name, row[name]]), ["control", control]]));
    const whole = merged.get(key);
    for (const end of ["", "_low", "_high"]) whole[row.type + end] = row[`accuracy${end}`];
  }
  // in the order of the leaderboard: by budget, the most accurate first
  const places = new Map(table("leaderboard")?.rows.map((row, place) => [keyOf(row), place]));
  const whole = [...merged.values()].sort((one, other) => (places.get(keyOf(one)) ?? Infinity) - (places.get(keyOf(other)) ?? Infinity) || 0);
  const about = "accuracy on questions of this kind";
  const aboutHeadline = "mean over the kinds of which the unpruned model answers enough";
  const columns = usualColumns(new Map(["model", "method", "budget", "task"].map((name) => [name, { name, kind: "text" }])), whole)
    .map((name) => ({ name, kind: "text" }));
  columns.push(...kinds.map((name) => ({ name, kind: "number", about: name === HEADLINE ? aboutHeadline : about, better: "higher" })));
  main.append(element("p", { className: "quiet" }, `Accuracy of ${whole.length} rows by kind of question${kinds.includes(HEADLINE) ? `; ${HEADLINE}: ${aboutHeadline}` : ""}.`));
  const node = element("div", { id: "grid" });
  main.append(node);
  grid = drawTable(node, columns, whole, { onRow: (row) => setState({ view: "methods", method: row.method }, "push"), label: "accuracy by kind of question" });
}

/** What can be shown, as boxes to tick. */
function columnPicker(columns, picked, usual, count) {
  const boxes = element("div", { className: "picks" });
  for (const [name, column] of columns) {
    const box = element("input", { type: "checkbox", checked: picked.includes(name), value: name });
    box.addEventListener("change", () => {
      const names = [...boxes.querySelectorAll("input:checked")].map((one) => one.value);
      setState({ columns: names.join(",") === usual.join(",") ? "" : names.join(","), picking: "yes" });
    });
    boxes.append(element("label", { title: about(column) }, box, words(name)));
  }
  const details = element("details", { className: "columns", open: STATE.picking === "yes" });
  details.append(element("summary", {}, `${count}, ${picked.length} of ${columns.size} columns`), boxes);
  return details;
}
