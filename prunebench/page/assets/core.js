"use strict";
// Core: the data, the state that stands in the address, and how elements are made.

const DATA = JSON.parse(document.getElementById("data").textContent);
if (DATA.schema !== 1) throw new Error(`this page cannot read data of schema ${DATA.schema}`);

const BASELINE = "none";

/** An element; texts become text nodes, so that nothing that somebody wrote is taken for HTML. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && !name.includes("-") && name !== "role") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** A link, where the address is one of the web. */
function link(address, text) {
  if (!/^https?:\/\//.test(address || "")) return text || address || "";
  return element("a", { href: address, rel: "noopener noreferrer", target: "_blank" }, text || address);
}

// ---- tables ---------------------------------------------------------------------------------

const TABLES = new Map();

/** A table of the study as rows, with its columns by name; null where the study has none. */
function table(name) {
  if (!(name in DATA.tables)) return null;
  if (!TABLES.has(name)) {
    const stored = DATA.tables[name];
    const rows = Array.from({ length: stored.rows }, () => ({}));
    for (const column of stored.columns) {
      const texts = column.texts;
      column.values.forEach((value, place) => {
        rows[place][column.name] = texts ? texts[value] : value;
      });
    }
    const columns = new Map(stored.columns.map((column) => [column.name, column]));
    TABLES.set(name, { name, rows, columns, leftOut: stored.left_out });
  }
  return TABLES.get(name);
}

const KEY = ["model", "method", "settings", "budget_kind", "budget", "task"];
const keyOf = (row) => KEY.map((name) => row[name]).join("\u0000");

/** What of a leaderboard's row speaks for all kinds of questions alone. */
const OF_ALL_KINDS = /^(relative_accuracy|difference_|against_|better_than|above_blind|n_|accuracy|n$|fidelity|right_to_wrong|wrong_to_right|hard|published_)/;

/** The leaderboard's rows; of one kind of question, with the accuracy and evidence of that kind. */
function boardRows() {
  const board = table("leaderboard");
  if (!board) return [];
  const types = table("by_type");
  if (!STATE.type || !types) return board.rows;
  const whole = new Map(board.rows.map((row) => [keyOf(row), row]));
  const rows = [];
  for (const part of types.rows) {
    if (part.type !== STATE.type) continue;
    const row = {};
    for (const [name, value] of Object.entries(whole.get(keyOf(part)) || {})) {
      if (!OF_ALL_KINDS.test(name)) row[name] = value;
    }
    rows.push(Object.assign(row, part));
  }
  // as the leaderboard stands: by budget, the most accurate first
  const models = distinct(board.rows, "model");
  return rows.sort((one, other) =>
    models.indexOf(one.model) - models.indexOf(other.model) || (other.method === BASELINE) - (one.method === BASELINE) ||
    budgetOrder(other) - budgetOrder(one) || (other.accuracy ?? -Infinity) - (one.accuracy ?? -Infinity) || 0);
}

/** Columns of the leaderboard and, of one kind of question, of that table too. */
function boardColumns() {
  const board = table("leaderboard");
  const columns = new Map(board ? board.columns : []);
  const types = STATE.type && table("by_type");
  if (types) for (const [name, column] of types.columns) if (!columns.has(name)) columns.set(name, column);
  return columns;
}

// ---- state ----------------------------------------------------------------------------------

const DEFAULTS = { view: "board" };
const STATE = { ...DEFAULTS };

/** Read the state from the address. */
function readState() {
  for (const name of Object.keys(STATE)) delete STATE[name];
  Object.assign(STATE, DEFAULTS);
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) STATE[name] = value;
  if (!VIEWS.some((view) => view.name === STATE.view)) STATE.view = DEFAULTS.view;
}

/** Change the state, put it into the address, and show it. */
function setState(changes, how = "replace") {
  for (const [name, value] of Object.entries(changes)) {
    if (value === "" || value === null || value === undefined) delete STATE[name];
    else STATE[name] = String(value);
  }
  if (!STATE.view) STATE.view = DEFAULTS.view;
  const address = `#${new URLSearchParams(STATE)}`;
  history[how === "push" ? "pushState" : "replaceState"](null, "", address);
  show();
}

/** The rows that the filters let through; a filter that a table has no column for is none. */
function filtered(rows) {
  const words = (STATE.find || "").toLowerCase();
  // a table whose rows are of single tasks has none that stands for all
  const task = STATE.task === "all" && !rows.some((row) => row.task === "all") ? "" : STATE.task;
  return rows.filter((row) => {
    if (STATE.model && "model" in row && row.model !== STATE.model) return false;
    if (task && "task" in row && row.task !== task) return false;
    if (STATE.budget && "budget" in row && row.method !== BASELINE && budgetKey(row) !== STATE.budget) return false;
    if (STATE.controls === "no" && "control" in row && row.control === "true" && row.method !== BASELINE) return false;
    if (words && "method" in row && !row.method.toLowerCase().includes(words)) return false;
    return true;
  });
}

const budgetKey = (row) => `${row.budget_kind || ""}:${row.budget}`;

/** Distinct values of a column, in their order. */
function distinct(rows, name) {
  return [...new Set(rows.map((row) => row[name]).filter((value) => value !== undefined))];
}
