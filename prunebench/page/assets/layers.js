// Layers: the visual tokens alive in every layer, where a method thins them inside the model.

/** A method's staircase at each of its budgets, a chart a model; nothing where none has a step. */
function layersOf(node, method) {
  const alive = table("layers");
  if (!alive) return;
  for (const model of distinct(alive.rows, "model")) {
    if (STATE.model && model !== STATE.model) continue;
    const lines = staircases(alive.rows.filter((row) => row.model === model && row.method === method));
    const steps = lines.some((line) => line.runs.length > 1);
    const encoder = lines.some((line) => line.encoder.length);
    if (!steps && !encoder) continue;
    node.append(element("h3", {}, `Visual tokens alive, layer by layer, ${model}`));
    if (steps) {
      const plot = element("div", { className: "plot low", role: "img", "aria-label": `visual tokens of ${method} in every layer of ${model}` });
      node.append(plot);
      drawStaircases(plot, method, lines);
    }
    if (encoder) node.append(element("p", { className: "quiet" }, encoderLine(lines)));
  }
}

/** The lines of one method on one model: a line a budget, its runs of layers in order. */
function staircases(rows) {
  const tasks = distinct(rows, "task");
  const chosen = tasks.includes(STATE.task) ? STATE.task : tasks.includes("all") ? "all" : tasks[0];
  const lines = new Map();
  for (const row of rows) {
    if (row.task !== chosen || typeof row.share !== "number") continue;
    const key = [row.settings, budgetKey(row)].join("\u0000");
    if (!lines.has(key)) lines.set(key, { row, runs: [], encoder: [] });
    lines.get(key)[row.part === "llm" ? "runs" : "encoder"].push(row);
  }
  return [...lines.values()].filter((line) => line.runs.length).sort((one, other) => budgetOrder(other.row) - budgetOrder(one.row));
}

/** What is left behind the seams of the vision encoder, in words. */
function encoderLine(lines) {
  const parts = lines.filter((line) => line.encoder.length).map((line) => {
    const seams = line.encoder.map((row) => `${percent(row.share)} from block ${row.first_layer} on`);
    return `${budgetLabel(line.row)}: ${seams.join(", ")}`;
  });
  return `Alive in the vision encoder: ${parts.join("; ")}.`;
}

/** Draw them as steps: layer 3 lies between 3 and 4. */
function drawStaircases(node, method, lines) {
  const colour = colourOf(method);
  const dashes = ["solid", "dash", "dot", "dashdot", "longdash"];
  const traces = lines.map((line, place) => {
    const last = line.runs[line.runs.length - 1];
    const runs = [...line.runs, { ...last, first_layer: last.last_layer + 1 }];
    return {
      type: "scatter", mode: "lines", name: plain(budgetLabel(line.row)),
      x: runs.map((run) => run.first_layer), y: runs.map((run) => 100 * run.share),
      line: { shape: "hv", color: colour, width: 2, dash: dashes[place % dashes.length] },
      text: runs.map((run) => plain(`${budgetLabel(run)}: ${number(run.tokens)} tokens from layer ${run.first_layer} on`)),
      hovertemplate: "%{text}<extra></extra>", showlegend: false,
    };
  });
  const depth = Math.max(...traces.map((trace) => trace.x[trace.x.length - 1]));
  const layout = chartLayout(
    axis("layer of the LLM", { range: [0, depth] }),
    axis("tokens alive, %", { range: [0, 104] }),
  );
  layout.margin.r = 84;
  layout.annotations = endNames(traces, lines, method, depth);
  Plotly.newPlot(node, traces, layout, chartConfig(`layers-${method}`));
}

/** The budgets beside the ends of their lines, pushed apart where they meet. */
function endNames(traces, lines, method, depth) {
  const ends = traces.map((trace, place) => ({ end: trace.y[trace.y.length - 1], line: lines[place] }));
  ends.sort((one, other) => one.end - other.end);
  let least = 0;
  return ends.map(({ end, line }) => {
    const height = Math.max(end, least);
    least = height + 8;
    return {
      x: depth, y: height, text: plain(budgetLabel(line.row)), showarrow: false, xanchor: "left", xshift: 6,
      font: { size: isNarrow() ? 10 : 12, color: readable(method) },
    };
  });
}
