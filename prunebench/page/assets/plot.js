// Plot: any two numbers of the leaderboard against each other, a chart a model, with intervals, the
// frontier, and the colour and symbol that a method has everywhere.

const MOST_IN_COLOUR = 8;
const COSTS = [
  "tokens_mean_share", "tokens_kv_share", "tokens_input_share", "flops_ratio", "prefill_ratio", "total_ratio",
  "kv_bytes", "peak_memory_mib",
];

/** Numbers that some row has, by name. */
function plottable(columns, rows) {
  const names = [];
  for (const [name, column] of columns) {
    if (column.kind !== "number" || /_(low|high|p|holm)$/.test(name) || name === "seeds") continue;
    if (rows.some((row) => typeof row[name] === "number" && row.method !== BASELINE)) names.push(name);
  }
  return names;
}

/** The cost that the budgets count where they agree, else the first that there is. */
function usualCost(names, rows) {
  const kinds = distinct(rows.filter((row) => row.method !== BASELINE), "budget_kind").filter(filled);
  const own = kinds.length === 1 ? `tokens_${kinds[0]}_share` : "";
  return names.includes(own) ? own : COSTS.find((name) => names.includes(name));
}

/** Whether less of a column is better; of what nobody says, of a cost it is. */
function lessIsBetter(columns, name) {
  const column = columns.get(name);
  if (column && column.better) return column.better === "lower";
  return /tokens|flops|bytes|ratio|_ms$|memory|seconds/.test(name) && !/accuracy/.test(name);
}

/** The view of plots. */
function plotView(main) {
  const columns = boardColumns();
  const rows = filtered(boardRows());
  const names = plottable(columns, rows);
  if (!names.length) {
    main.append(element("p", { className: "note" }, "No method that the filters leave has a number to plot."));
    return;
  }
  const x = names.includes(STATE.x) ? STATE.x : usualCost(names, rows) || names[0];
  const y = names.includes(STATE.y) ? STATE.y : names.includes("accuracy") ? "accuracy" : names[0];
  const options = names.map((name) => [name, phrase(name)]);
  besideFilters(select("across", "x", options, x), select("up", "y", options, y));
  document.getElementById("filters").append(
    tick("logarithmic", "log", /tokens|bytes|flops/.test(x) ? "yes" : "no"),
    tick("intervals", "bars", "yes"),
    tick("frontier", "frontier", "yes"),
  );
  const models = distinct(rows, "model");
  const coloured = inColour(rows, columns, x, y);
  main.append(chips(rows, coloured));
  for (const model of models) {
    const of = rows.filter((row) => row.model === model && typeof row[x] === "number" && typeof row[y] === "number");
    if (!of.length) continue;
    if (models.length > 1) main.append(element("h2", {}, model));
    const node = element("div", { className: "plot", role: "img", "aria-label": `${words(y)} against ${words(x)} of ${model}` });
    main.append(node);
    chart(node, of, columns, { x, y, coloured, log: ticked("log", /tokens|bytes|flops/.test(x) ? "yes" : "no") });
  }
  main.append(element("p", { className: "quiet" }, aboutPlot(columns, rows, x, y)));
}

/** What the marks of a chart say. */
const ABOUT_MARKS = [
  "Intervals are 95\u00a0%",
  "The dashed line is the frontier: what is better than all that costs no more, and than the controls at its budget, by more than its interval",
  "Hollow: controls",
];

/** What the axes say, in a line. */
function aboutPlot(columns, rows, x, y) {
  const parts = [];
  for (const name of [x, y]) {
    const column = columns.get(name);
    if (column && column.about) parts.push(`${capital(phrase(name))}: ${column.about}`);
  }
  parts.push(...ABOUT_MARKS);
  if (rows.some((row) => row.budget === "own")) parts.push("A point that no line joins is a method's own operating point, of no budget");
  const busy = rows.length - sound(rows, x, y).length;
  if (busy) parts.push(`${busy} of ${rows.length} rows were timed on a busy machine and are no part of the frontier`);
  return `${parts.join(". ")}.`;
}

/** The methods that have their colour: those that were chosen, else the best few. */
function inColour(rows, columns, x, y) {
  const methods = distinct(rows, "method");
  if (STATE.marked !== undefined) return new Set(STATE.marked.split(",").filter(Boolean));
  const compared = methods.filter((method) => !(LOOKS.get(method) || {}).control && method !== BASELINE);
  if (compared.length <= MOST_IN_COLOUR) return new Set(compared);
  const sign = lessIsBetter(columns, y) ? -1 : 1;
  const best = (method) => {
    const values = rows.filter((row) => row.method === method && typeof row[y] === "number").map((row) => sign * row[y]);
    return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : -Infinity;
  };
  const onFrontier = new Set(frontier(rows, columns, x, y).map((row) => row.method));
  compared.sort((one, other) => onFrontier.has(other) - onFrontier.has(one) || best(other) - best(one));
  return new Set(compared.slice(0, MOST_IN_COLOUR));
}

/** A button a method that gives it its colour, or takes it away. */
function chips(rows, coloured) {
  const node = element("div", { className: "chips", role: "group", "aria-label": "methods in colour" }, element("span", { className: "quiet" }, "in colour:"));
  for (const method of distinct(rows, "method").sort()) {
    if (method === BASELINE) continue;
    const pressed = coloured.has(method);
    const toggle = () => {
      const next = new Set(coloured);
      if (!next.delete(method)) next.add(method);
      setState({ marked: [...next].join(",") || "," });
    };
    node.append(element("button", { type: "button", className: "chip", "aria-pressed": String(pressed), onclick: toggle }, symbol(method), method));
  }
  if (STATE.marked !== undefined) {
    node.append(element("button", { type: "button", className: "chip", onclick: () => setState({ marked: null }) }, "the best again"));
  }
  return node;
}

/** The columns that a clock has made, which says nothing on a busy machine. */
const TIMES = ["prefill_ratio", "total_ratio"];

/** The rows whose numbers on these axes mean something. */
function sound(rows, x, y) {
  return [x, y].some((name) => TIMES.includes(name)) ? rows.filter((row) => row.machine !== "busy") : rows;
}

/** The rows that are better than all that is cheaper, by more than their interval, from the cheapest
 * on, but for times of a busy machine; prunebench/report/frontier.py says the rule. */
function frontier(rows, columns, x, y) {
  const across = lessIsBetter(columns, x) ? 1 : -1;
  const up = lessIsBetter(columns, y) ? -1 : 1;
  const sorted = sound(rows, x, y).filter((row) => typeof row[x] === "number" && typeof row[y] === "number");
  sorted.sort((one, other) => across * (one[x] - other[x]) || up * (other[y] - one[y]));
  const least = (row) => row[`${y}_${up > 0 ? "low" : "high"}`] ?? row[y];
  const isControl = (row) => row.control === "true";
  const best = [];
  sorted.forEach((row, place) => {
    const beside = isControl(row) ? [] : sorted.filter((one) => isControl(one) && budgetKey(one) === budgetKey(row));
    if ([...sorted.slice(0, place), ...beside].every((rival) => up * (least(row) - rival[y]) > 0)) best.push(row);
  });
  return best;
}

/** Plotly reads a little HTML in texts: what somebody wrote is none. */
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** How far an interval reaches, as plotly takes it. */
function reach(rows, name, colour) {
  if (!ticked("bars", "yes") || !rows.some((row) => typeof row?.[`${name}_low`] === "number")) return undefined;
  const far = (end, sign) => rows.map((row) => {
    const value = row?.[`${name}_${end}`];
    return typeof value === "number" ? Math.max(0, sign * (value - row[name])) : 0;
  });
  return { type: "data", symmetric: false, array: far("high", 1), arrayminus: far("low", -1), color: colour, thickness: 1, width: 2 };
}

/** A method's points from budget to budget, and behind a gap its own operating point, which is none
 * of these. */
function points(rows, x) {
  const sorted = rows.slice().sort((one, other) => one[x] - other[x]);
  const own = sorted.filter((row) => row.budget === "own");
  return [...sorted.filter((row) => row.budget !== "own"), ...own.flatMap((row) => [null, row])];
}

/** One method's points, joined from budget to budget. */
function trace(method, rows, x, y, coloured) {
  const look = LOOKS.get(method) || { symbol: "circle", control: false };
  const lively = coloured.has(method) || method === BASELINE;
  const colour = lively ? colourOf(method) : style("--grey");
  const sorted = points(rows, x);
  const of = (value) => sorted.map((row) => (row === null ? null : value(row)));
  return {
    type: "scatter",
    mode: sorted.length > 1 ? "lines+markers" : "markers",
    name: plain(method),
    x: of((row) => row[x]),
    y: of((row) => row[y]),
    error_x: lively ? reach(sorted, x, colour) : undefined,
    error_y: lively ? reach(sorted, y, colour) : undefined,
    line: { color: colour, width: lively ? 2 : 1, dash: look.control && method !== BASELINE ? "dot" : "solid" },
    marker: {
      symbol: look.control && method !== BASELINE ? `${look.symbol}-open` : look.symbol,
      color: colour,
      size: method === BASELINE ? 14 : lively ? 10 : 7,
    },
    opacity: lively ? 1 : 0.65,
    text: of((row) => plain(`${method} ${budgetLabel(row)}`)),
    customdata: of((row) => [number(row[x]), number(row[y]), row.n ?? ""]),
    hovertemplate: `%{text}<br>${plain(words(x))} %{customdata[0]}<br>${plain(words(y))} %{customdata[1]}<br>n %{customdata[2]}<extra></extra>`,
    showlegend: false,
  };
}

/** Whether there is no room for what a pointer would do. */
const isNarrow = () => window.innerWidth <= 760;

/** An axis in the page's colours, with what else is said of it. */
function axis(title, more = {}) {
  return {
    // in two lines where there is no room for one
    title: { text: isNarrow() ? plain(title).replace(" (", "<br>(") : plain(title), standoff: 8 }, gridcolor: style("--line"), zeroline: false, linecolor: style("--line"),
    automargin: true, ...more,
  };
}

/** How a chart lies on the page. */
function chartLayout(xaxis, yaxis) {
  const narrow = isNarrow();
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: style("--ink"), family: "system-ui, sans-serif", size: narrow ? 11 : 13 },
    margin: { l: narrow ? 48 : 64, r: 18, t: 18, b: 54 },
    xaxis, yaxis,
    hovermode: "closest",
    hoverlabel: { bgcolor: style("--raised"), bordercolor: style("--line"), font: { color: style("--ink") } },
    dragmode: narrow ? false : "zoom",
  };
}

/** What one can do with a chart, and the name of its picture. */
function chartConfig(name) {
  return {
    responsive: true, displaylogo: false, showTips: false, scrollZoom: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg", filename: `${DATA.study}-${name}` },
    displayModeBar: isNarrow() ? false : "hover",
  };
}

/** Draw one chart. */
function chart(node, rows, columns, { x, y, coloured, log }) {
  const methods = distinct(rows, "method");
  methods.sort((one, other) => coloured.has(one) - coloured.has(other));
  const traces = methods.map((method) => trace(method, rows.filter((row) => row.method === method), x, y, coloured));
  const best = frontier(rows, columns, x, y);
  if (ticked("frontier", "yes") && best.length) {
    // up to the next point the cheaper one is the best there is, and the last one to the end
    const costs = rows.map((row) => row[x]);
    const end = lessIsBetter(columns, x) ? Math.max(...costs) : Math.min(...costs);
    traces.unshift({
      type: "scatter", mode: "lines", x: [...best.map((row) => row[x]), end], y: [...best, best[best.length - 1]].map((row) => row[y]),
      line: { shape: "hv", color: style("--ink"), width: 1, dash: "dash" }, hoverinfo: "skip", showlegend: false,
    });
  }
  const values = rows.map((row) => row[x]);
  const logarithmic = log && Math.min(...values) > 0;
  const layout = chartLayout(
    axis(phrase(x), logarithmic ? { type: "log", ...logTicks(values, x, rows) } : {}), axis(phrase(y)),
  );
  Plotly.newPlot(node, traces, layout, chartConfig(`${y}-${x}`));
  const place = (row) => (logarithmic ? Math.log10(row[x]) : row[x]);
  Plotly.relayout(node, { annotations: lineNames(node, rows, place, y, coloured, isNarrow()) });
  node.on("plotly_click", (event) => {
    const method = methods.find((one) => plain(one) === event.points[0].data.name);
    if (method) setState({ view: "methods", method }, "push");
  });
}

/** Ticks of a logarithmic axis: of tokens where the budgets came to, else round numbers. */
function logTicks(values, x, rows) {
  const low = Math.min(...values), high = Math.max(...values);
  const ticks = /^tokens/.test(x) ? budgetTicks(rows, x) : roundTicks(low, high);
  return ticks.length > 9 ? {} : { tickmode: "array", tickvals: ticks, ticktext: ticks.map((tick) => plain(tick < 1e4 ? String(Number(tick.toPrecision(tick < 1 ? 2 : 3))) : number(tick))) };
}

/** The median of every budget, of two that are close the larger. */
function budgetTicks(rows, x) {
  const members = new Map();
  // what methods spend at their own operating points is no budget
  const budgets = rows.filter((row) => row.budget !== "own");
  for (const row of budgets.length ? budgets : rows) {
    const key = row.method === BASELINE ? "" : budgetKey(row);
    members.set(key, [...(members.get(key) || []), row[x]]);
  }
  const medians = [...members.values()].map((values) => values.sort((one, other) => one - other)[values.length >> 1]);
  const ticks = [];
  for (const tick of medians.sort((one, other) => other - one)) {
    if (!ticks.length || tick < ticks[ticks.length - 1] / 1.25) ticks.push(tick);
  }
  return ticks;
}

/** A method's colour for letters: on a dark ground a lighter one. */
function readable(method) {
  const colour = colourOf(method);
  if (document.documentElement.dataset.theme !== "dark" || !/^#[0-9a-f]{6}$/i.test(colour)) return colour;
  const parts = [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
  return `rgb(${parts.map((part) => Math.round(part + 0.45 * (255 - part))).join(",")})`;
}

/** One, two and five times powers of ten. */
function roundTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const step of [1, 2, 5]) {
      const tick = Number(`${step}e${power}`);
      if (tick >= low / 1.3 && tick <= high * 1.3) ticks.push(tick);
    }
  }
  return ticks;
}

/** The names of the lines in colour, each beside its cheapest point, pushed apart where they meet. */
function lineNames(node, rows, place, y, coloured, narrow) {
  const [bottom, top] = node.layout.yaxis.range;
  const [left, right] = node.layout.xaxis.range;
  const pixels = (node.clientHeight - 72) / (top - bottom || 1);
  const ends = [];
  for (const method of coloured) {
    const own = rows.filter((row) => row.method === method);
    if (own.length) ends.push(own.reduce((one, other) => (place(other) < place(one) ? other : one)));
  }
  ends.push(...rows.filter((row) => row.method === BASELINE).slice(0, 1));
  ends.sort((one, other) => one[y] - other[y]);
  const least = narrow ? 12 : 15;
  const names = [];
  for (const row of ends) {
    let height = row[y] * pixels;
    for (const other of names) {
      const near = Math.abs(place(row) - other.x) < 0.2 * Math.abs(right - left);
      if (near) height = Math.max(height, other.height + least);
    }
    names.push({ x: place(row), row, height });
  }
  return names.map(({ x, row, height }) => ({
    x, y: row[y], text: plain(row.method), showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: style("--grey"),
    ax: narrow ? -14 : -26, ay: row[y] * pixels - height, xanchor: "right", standoff: 6,
    font: { size: narrow ? 10 : 12, color: readable(row.method) }, bgcolor: style("--ground"), borderpad: 1, opacity: 0.95,
  }));
}
