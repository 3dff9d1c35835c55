// Format: numbers, intervals, budgets and names as a reader wants them.

const SIZES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]];

/** A number with three or four digits that count. */
function number(value) {
  if (value === null || value === undefined || value === "") return "";
  if (typeof value !== "number") return String(value);
  if (value < 0) return `−${number(-value)}`;
  const size = value;
  if (Number.isInteger(value) && size < 1e5) return String(value);
  for (const [unit, letter] of SIZES) {
    if (size >= unit && size >= 1e5) return `${(value / unit).toPrecision(3)} ${letter}`;
  }
  if (size !== 0 && size < 0.0005) return value.toExponential(1);
  if (size < 10) return value.toFixed(3);
  return size < 1000 ? value.toPrecision(4) : value.toFixed(0);
}

/** The same with the ends of its interval, where it has one. */
function withInterval(row, name) {
  const node = element("span", { className: "number" }, number(row[name]));
  const low = row[`${name}_low`], high = row[`${name}_high`];
  if (typeof low === "number" && typeof high === "number") {
    // an end close to zero has the digits of the number, and no exponent
    const end = (value) => (Math.abs(value) < 0.0005 && Math.abs(row[name]) >= 0.0005 ? "0.000" : number(value));
    node.append(element("small", {}, `${end(low)} to ${end(high)}`));
  }
  return node;
}

/** A budget as one says it: "25 %", "kv 25 %", "64 tokens". */
function budgetLabel(row) {
  if (row.method === BASELINE) return "unpruned";
  const kind = row.budget_kind && row.budget_kind !== "mean" ? `${row.budget_kind} ` : "";
  const amount = Number(row.budget);
  if (row.budget === "" || Number.isNaN(amount)) return kind + row.budget;
  if (/^\d+$/.test(row.budget)) return `${kind}${row.budget} tokens`;
  return kind + percent(amount);
}

/** A share as one says it, in one piece. */
const percent = (share) => `${Number((100 * share).toPrecision(3))}\u00a0%`;

/** Where a budget stands among others: the largest first. */
function budgetOrder(row) {
  const amount = Number(row.budget);
  return Number.isNaN(amount) ? -1 : /^\d+$/.test(row.budget) ? amount / 1e6 : amount;
}

/** A column's name as words. */
const words = (name) => name.replaceAll("_", " ");

/** What is spent, of which columns hold the share that a method spends of the unpruned model's. */
const SPENT = {
  tokens_mean_share: "visual tokens, mean over layers",
  tokens_input_share: "visual tokens at the first layer",
  tokens_kv_share: "visual tokens in the KV cache",
  flops_ratio: "prefill FLOPs",
  prefill_ratio: "prefill time",
  total_ratio: "total time",
};

/** A column in words that stand alone, with its unit: beside an axis, in a list to choose from. */
function phrase(name) {
  if (name in SPENT) return `${SPENT[name]} (share of unpruned)`;
  const board = table("leaderboard"), column = board && board.columns.get(name);
  return column && column.unit ? `${words(name)} (${column.unit})` : words(name);
}

/** What a column says, for a tooltip. */
function about(column) {
  if (!column) return "";
  const parts = [column.name, column.about, column.unit && `in ${column.unit}`, column.better && `${column.better} is better`];
  return parts.filter(Boolean).join("; ");
}

const LOOKS = new Map(Object.entries(DATA.looks));
const PATHS = {
  circle: "M7 2a5 5 0 1 0 .01 0z",
  square: "M2.5 2.5h9v9h-9z",
  diamond: "M7 1l6 6-6 6-6-6z",
  "triangle-up": "M7 2l5.5 10h-11z",
  "triangle-down": "M7 12L1.500 2h11z",
  cross: "M5 1.500h4V5h3.500v4H9v3.500H5V9H1.500V5H5z",
  x: "M3.500 1L7 4.500 10.500 1 13 3.500 9.500 7l3.500 3.500-2.500 2.500L7 9.500 3.500 13 1 10.500 4.500 7 1 3.500z",
  pentagon: "M7 1.500l5.700 4.100-2.200 6.700h-7L1.300 5.600z",
  hexagon: "M7 1.500l4.800 2.750v5.500L7 12.500 2.200 9.750v-5.500z",
  "triangle-left": "M2 7l10-5.500v11z",
  "triangle-right": "M12 7L2 1.500v11z",
  star: "M7 1l1.800 4 4.200.400-3.200 2.800 1 4.200L7 10.200l-3.800 2.200 1-4.200L1 5.400 5.200 5z",
};

/** A method's symbol in its colour. */
function symbol(method) {
  const look = LOOKS.get(method);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 14 14");
  svg.setAttribute("width", "13");
  svg.setAttribute("height", "13");
  svg.setAttribute("aria-hidden", "true");
  if (!look) return svg;
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[look.symbol] || PATHS.circle);
  const colour = colourOf(method);
  path.setAttribute("fill", look.control && method !== BASELINE ? "none" : colour);
  path.setAttribute("stroke", colour);
  path.setAttribute("stroke-width", "1.4");
  svg.append(path);
  return svg;
}

/** A method's colour; the unpruned model's is that of the ink. */
function colourOf(method) {
  if (method === BASELINE) return style("--ink");
  const look = LOOKS.get(method);
  return look ? look.colour : style("--grey");
}

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A method's name behind its symbol. */
const named = (method) => element("span", { className: "name" }, symbol(method), method);

/** A small word on a ground: good, bad, or neither. */
const mark = (text, kind = "") => element("span", { className: `mark ${kind}` }, text);
