// Main: the views, the filters that they share, themes and keys.

const VIEWS = [
  { name: "board", title: "Tables", draw: boardView, filters: ["model", "task", "type", "budget", "find", "controls"] },
  { name: "plot", title: "Plot", draw: plotView, filters: ["model", "task", "type", "budget", "find", "controls"] },
  { name: "choose", title: "Choose", draw: chooseView, filters: ["model", "task", "type", "find", "controls"] },
  { name: "methods", title: "Methods", draw: methodsView, filters: ["model", "task", "type", "find"] },
  { name: "questions", title: "Questions", draw: questionsView, filters: ["model", "task", "type", "budget", "find", "controls"] },
];
if (DATA.contrast) VIEWS.push({ name: "contrast", title: "Two studies", draw: contrastView, filters: ["model", "task", "budget", "find"] });

// ---- fields ---------------------------------------------------------------------------------

/** A field that chooses a value of the state; `more` are changes that go with it. */
function select(label, name, options, value, more = () => ({})) {
  const node = element("select", { "data-name": name });
  for (const [key, text] of options) node.append(element("option", { value: key, selected: key === value }, text));
  node.addEventListener("change", () => setState({ ...more(), [name]: node.value }));
  return element("label", { className: "field" }, label, node);
}

/** Put a view's own fields in front of the filters. */
function besideFilters(...nodes) {
  document.getElementById("filters").prepend(...nodes);
}

const ticked = (name, usual) => (STATE[name] || usual) === "yes";

/** A box that says yes or no to a part of the state. */
function tick(label, name, usual) {
  const box = element("input", { type: "checkbox", checked: ticked(name, usual), "data-name": name });
  box.addEventListener("change", () => setState({ [name]: (box.checked ? "yes" : "no") === usual ? "" : box.checked ? "yes" : "no" }));
  return element("label", { className: "check" }, box, label);
}

/** What each filter can be set to; one that leaves no choice is not shown. */
function filterFields() {
  const board = table("leaderboard");
  const rows = board ? board.rows : [];
  const types = table("by_type");
  const of = (name) => distinct(rows, name).filter(filled);
  const budgets = new Map();
  for (const row of rows.slice().sort((one, other) => budgetOrder(other) - budgetOrder(one))) {
    if (row.method !== BASELINE && !budgets.has(budgetKey(row))) budgets.set(budgetKey(row), budgetLabel({ ...row, method: "" }));
  }
  const tasks = of("task").map((task) => [task, task === "all" ? "mean over tasks" : task]);
  const kinds = types ? distinct(types.rows, "type").map((type) => [type, type === HEADLINE ? `${type} (mean of kinds)` : type]) : distinct(DATA.questions.flatMap((group) => group.questions), "type").filter(filled).map((type) => [type, type]);
  return {
    model: ["model", of("model").map((model) => [model, model]), "every model"],
    task: ["task", tasks, "every task"],
    type: ["kind of question", kinds, "all kinds"],
    budget: ["budget", [...budgets], "every budget"],
  };
}

/** Draw the filters of a view. */
function drawFilters(view) {
  const form = document.getElementById("filters");
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.name : "";
  const place = focused === "find" ? document.activeElement.selectionStart : null;
  form.replaceChildren();
  const fields = filterFields();
  for (const name of view.filters) {
    if (name in fields) {
      const [label, options, every] = fields[name];
      if (options.length > 1) form.append(select(label, name, [["", every], ...options], STATE[name] || ""));
    }
  }
  if (view.filters.includes("find")) {
    const input = element("input", { type: "search", value: STATE.find || "", placeholder: "part of a name", "data-name": "find" });
    input.addEventListener("input", () => setState({ find: input.value }));
    form.append(element("label", { className: "field" }, "method", input));
  }
  if (view.filters.includes("controls")) form.append(tick("controls", "controls", "yes"));
  const again = focused && form.querySelector(`[data-name="${CSS.escape(focused)}"]`);
  if (again) {
    again.focus();
    if (place !== null) again.setSelectionRange(place, place);
  }
}

// ---- views ----------------------------------------------------------------------------------

/** Show what the state says. */
function show() {
  const view = VIEWS.find((one) => one.name === STATE.view) || VIEWS[0];
  for (const tab of document.querySelectorAll("#tabs button")) {
    const current = tab.dataset.view === view.name;
    tab.setAttribute("aria-selected", String(current));
    tab.tabIndex = current ? 0 : -1;
  }
  // on a narrow screen the tabs scroll; the page itself stays where it is
  const tabs = document.getElementById("tabs"), chosen = tabs.querySelector("[aria-selected=true]");
  if (chosen) tabs.scrollLeft = Math.max(0, chosen.offsetLeft + chosen.offsetWidth - tabs.offsetLeft - tabs.clientWidth);
  drawFilters(view);
  const main = document.getElementById("main");
  const focused = main.contains(document.activeElement) ? { name: document.activeElement.dataset.name, id: document.activeElement.id, list: document.activeElement.closest(".list") !== null } : null;
  for (const plot of main.querySelectorAll(".plot")) Plotly.purge(plot);
  main.replaceChildren();
  main.setAttribute("aria-labelledby", `tab-${view.name}`);
  view.draw(main);
  if (focused) restore(main, focused);
}

/** Give the focus back to what has taken the place of the element that had it. */
function restore(main, { name, id, list }) {
  const node = (id && document.getElementById(id)) || (name && main.querySelector(`[data-name="${CSS.escape(name)}"]`)) || (list && main.querySelector(".list [aria-current]"));
  if (node) node.focus({ preventScroll: true });
}

/** Draw the tabs, once. */
function drawTabs() {
  const tabs = document.getElementById("tabs");
  VIEWS.forEach((view, place) => {
    const open = () => setState({ view: view.name }, "push");
    tabs.append(element("button", { type: "button", role: "tab", id: `tab-${view.name}`, "data-view": view.name, "aria-controls": "main", title: `key ${place + 1}`, onclick: open }, view.title));
  });
  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const place = VIEWS.findIndex((view) => view.name === STATE.view);
    const next = VIEWS[(place + step + VIEWS.length) % VIEWS.length];
    setState({ view: next.name }, "push");
    document.getElementById(`tab-${next.name}`).focus();
  });
}

// ---- themes ---------------------------------------------------------------------------------

const THEMES = { system: "◐", light: "☀", dark: "☾" };
const DARK = window.matchMedia("(prefers-color-scheme: dark)");

/** What was chosen the last time; a browser may keep nothing for files. */
function storedTheme() {
  try {
    return localStorage.getItem("prunebench-theme") in THEMES ? localStorage.getItem("prunebench-theme") : "system";
  } catch {
    return "system";
  }
}

let theme = storedTheme();

/** Put the theme on the page. */
function applyTheme() {
  const dark = theme === "dark" || (theme === "system" && DARK.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  const button = document.getElementById("theme");
  button.textContent = THEMES[theme];
  button.setAttribute("aria-label", `colours: ${theme}`);
}

/** The next theme. */
function turnTheme() {
  const names = Object.keys(THEMES);
  theme = names[(names.indexOf(theme) + 1) % names.length];
  try {
    localStorage.setItem("prunebench-theme", theme);
  } catch {
    // then it is forgotten
  }
  applyTheme();
  show();
}

// ---- keys -----------------------------------------------------------------------------------

const KEYS = [
  ["1 … 9", "the views, from left to right"], ["← →", "the view beside, on the tabs"], ["/", "find a method"],
  ["j k", "the next question or the one before"], ["↑ ↓", "through a list"], ["Enter", "sort by a heading"], ["t", "light or dark"], ["?", "these keys"],
];

/** What a key does outside of fields. */
function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const view = VIEWS[Number(event.key) - 1];
  const find = document.querySelector('#filters [data-name="find"]');
  const buttons = { j: "after", k: "before" };
  if (view) setState({ view: view.name }, "push");
  else if (event.key === "/" && find) find.focus();
  else if (event.key in buttons && document.getElementById(buttons[event.key])) document.getElementById(buttons[event.key]).click();
  else if (event.key === "t") turnTheme();
  else if (event.key === "?") openHelp();
  else return;
  event.preventDefault();
}

/** The keys, and what the page is. */
function openHelp() {
  const dialog = document.getElementById("keys");
  const list = element("dl", { className: "facts" });
  for (const [key, what] of KEYS) list.append(element("dt", {}, element("kbd", {}, key)), element("dd", {}, what));
  const close = element("button", { type: "button", onclick: () => dialog.close() }, "close");
  dialog.replaceChildren(
    element("h2", {}, "Keys"), list,
    element("p", { className: "quiet" }, "What is chosen stands in the address: a copied link opens the same view. A click on a row or a point opens its method."), close);
  dialog.showModal();
}

// ---- start ----------------------------------------------------------------------------------

/** Head and foot of the page. */
function drawFrame() {
  document.title = `${DATA.study} · prunebench`;
  document.getElementById("study").textContent = DATA.study;
  const rows = table("leaderboard") ? table("leaderboard").rows : [];
  const count = (name, word, few = distinct(rows, name).filter((one) => filled(one) && one !== "all")) => (few.length > 3 ? `${few.length} ${word}s` : few.join(", "));
  const methods = distinct(rows, "method").filter((one) => one !== BASELINE).length;
  const questions = Math.max(0, ...rows.map((row) => row.n_asked ?? row.n ?? 0));
  document.getElementById("summary").textContent = [count("model", "model"), count("task", "task"), `${methods} methods`, questions ? `${questions} questions` : "", count("hardware", "machine")].filter(Boolean).join(" · ");
  const dtypes = distinct(rows, "dtype").filter(filled).join(", ");
  const licences = element("details", {}, element("summary", {}, "licences of plotly.js and Tabulator, which lie in this page"), element("pre", {}, document.getElementById("licences").textContent));
  document.getElementById("foot").append(
    element("p", {}, `Made by prunebench ${DATA.version} from the study's own tables; code of the cells: ${DATA.commits.join(", ") || "no commit"}${dtypes ? `; weights in ${dtypes}` : ""}. Intervals are 95\u00a0%. The page makes no request to any network.`), licences);
}

document.getElementById("theme").addEventListener("click", turnTheme);
document.getElementById("help").addEventListener("click", openHelp);
document.addEventListener("keydown", pressed);
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("popstate", () => { readState(); show(); });
window.addEventListener("hashchange", () => { readState(); show(); });
DARK.addEventListener("change", () => { applyTheme(); show(); });
readState();
if (!STATE.task && table("leaderboard") && distinct(table("leaderboard").rows, "task").includes("all") && STATE.view !== "questions") STATE.task = "all";
applyTheme();
drawFrame();
drawTabs();
show();
