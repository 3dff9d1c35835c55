// Questions: one image at a time, what each method kept of it, and what the model then answered.

const RIGHT = 0.5;
const MOST_CARDS = 24;
const FLIPS = [
  ["", "any question"], ["lost", "right → wrong"], ["won", "wrong → right"], ["either", "any flip"],
  ["hard", "unpruned is wrong"], ["kept", "every method right"],
];

/** Whether an answer is right; null where it has no score. */
function isRight(group, answer) {
  if (!answer || typeof answer.score !== "number") return null;
  return group.higher ? answer.score >= RIGHT : answer.score < RIGHT;
}

/** "lost", "won", or "" for one that fares as the unpruned model. */
function flip(group, question, place) {
  const base = group.cells.findIndex((cell) => cell.method === BASELINE);
  if (base < 0) return "";
  const before = isRight(group, question.answers[base]), after = isRight(group, question.answers[place]);
  if (before === null || after === null || before === after) return "";
  return before ? "lost" : "won";
}

/** The places of the cells that the filters leave, without the unpruned model. */
function placesOf(group) {
  const find = (STATE.find || "").toLowerCase();
  const places = [];
  group.cells.forEach((cell, place) => {
    if (cell.method === BASELINE || !cell.method.toLowerCase().includes(find)) return;
    if (STATE.controls === "no" && cell.control) return;
    if (STATE.budget && `${cell.kind}:${cell.budget}` !== STATE.budget) return;
    places.push(place);
  });
  return places;
}

/** Whether a question is one that the filter of flips wants. */
function wanted(group, question, places) {
  const flips = places.map((place) => flip(group, question, place));
  const base = group.cells.findIndex((cell) => cell.method === BASELINE);
  switch (STATE.flip || "") {
    case "lost": return flips.includes("lost");
    case "won": return flips.includes("won");
    case "either": return flips.some(Boolean);
    case "hard": return base >= 0 && isRight(group, question.answers[base]) === false;
    case "kept": return places.every((place) => isRight(group, question.answers[place]) !== false);
    default: return true;
  }
}

/** The view of questions. */
function questionsView(main) {
  const groups = DATA.questions.filter((group) => (!STATE.model || group.model === STATE.model) && (!STATE.task || STATE.task === "all" || group.task === STATE.task));
  if (!groups.length) {
    main.append(element("p", { className: "note" }, "No question that the filters leave has answers in this page."));
    return;
  }
  const titles = groups.map((group) => [`${group.model}/${group.task}`, groups.length > 1 ? `${group.model}: ${group.task}` : group.task]);
  const group = groups.find((one) => `${one.model}/${one.task}` === STATE.group) || groups[0];
  const places = placesOf(group);
  if (groups.length > 1) besideFilters(select("questions of", "group", titles, `${group.model}/${group.task}`, () => ({ sample: "" })));
  besideFilters(select("answers", "flip", FLIPS, STATE.flip || "", () => ({ sample: "" })));
  const questions = group.questions.filter((question) => (!STATE.type || question.type === STATE.type || STATE.type === "headline") && wanted(group, question, places));
  main.append(element("p", { className: "quiet" }, bound(group, questions)));
  if (!questions.length) {
    main.append(element("p", { className: "note" }, "No question in the page is of that kind."));
    return;
  }
  const current = questions.find((question) => question.sample === STATE.sample) || questions[0];
  const detail = element("article");
  main.append(element("div", { className: "split" }, questionList(group, questions, current, places), detail));
  questionDetail(detail, group, current, places, questions);
}

/** How many questions there are, and how many of them the page has. */
function bound(group, questions) {
  const count = group.questions.length;
  const pictures = group.questions.filter((question) => question.image).length;
  const parts = [`${questions.length} of ${count} questions in the page`];
  if (count < group.of) parts.push(`the task has ${group.of}: here are those on which the methods disagree most, kind by kind in turn`);
  if (group.cells.some((cell) => cell.method === BASELINE)) parts.push("−3: three methods lose what the unpruned model has right, +3: three win what it has wrong");
  if (!pictures) parts.push("images and kept tokens are not in this study yet: prunebench report STUDY pictures=12 adds them");
  else if (pictures < count) parts.push(`the first ${pictures} have their image`);
  return `${parts.map(capital).join(". ")}.`;
}

/** The questions to choose from. */
function questionList(group, questions, current, places) {
  const list = element("div", { className: "list", role: "group", "aria-label": "questions" });
  for (const question of questions) {
    const flips = places.map((place) => flip(group, question, place));
    const lost = flips.filter((one) => one === "lost").length, won = flips.filter((one) => one === "won").length;
    const name = question.question || `${question.type || group.task} ${question.sample}`;
    const select = () => setState({ sample: question.sample });
    list.append(element("button", { type: "button", title: name, "aria-current": question === current ? "true" : null, onclick: select },
      element("span", {}, lastLine(name)),
      lost ? element("span", { className: "mark bad", title: `${lost} right → wrong` }, `−${lost}`) : null,
      won ? element("span", { className: "mark good", title: `${won} wrong → right` }, `+${won}`) : null));
  }
  arrows(list);
  requestAnimationFrame(() => {
    const button = list.querySelector("[aria-current]");
    if (button) list.scrollTop = Math.max(0, button.offsetTop - list.offsetTop - 60);
  });
  return list;
}

/** Of a prompt of several lines the first that says something. */
const lastLine = (text) => text.split("\n").map((line) => line.trim()).find(Boolean) || text;

/** One question in full. */
function questionDetail(node, group, question, places, questions) {
  const place = questions.indexOf(question);
  const step = (by) => setState({ sample: questions[(place + by + questions.length) % questions.length].sample });
  const base = group.cells.findIndex((cell) => cell.method === BASELINE);
  node.append(
    element("div", { className: "row" },
      element("button", { type: "button", id: "before", onclick: () => step(-1) }, "← before"),
      element("button", { type: "button", id: "after", onclick: () => step(1) }, "next →"),
      element("span", { className: "quiet" }, [question.type, question.complexity !== null && `complexity ${question.complexity}`, `sample ${question.sample}`, question.available && `${question.available} visual tokens`].filter(Boolean).join(" · "))),
    element("p", { className: "question" }, question.question || "(the question stands in the task's data; pictures=N brings it here)"),
    element("p", {}, "right: ", element("strong", { id: "reference" }, question.reference ?? "not in the data")),
  );
  const answers = element("div", { className: "answers" });
  const order = places.slice().sort((one, other) => rank(group, question, one) - rank(group, question, other));
  const all = STATE.answers === "all" || order.length <= MOST_CARDS;
  const cards = all ? order : order.slice(0, MOST_CARDS);
  for (const one of base < 0 ? cards : [base, ...cards]) answers.append(answerCard(group, question, one));
  node.append(answers);
  if (!all) {
    const more = element("button", { type: "button", onclick: () => setState({ answers: "all" }) }, `all ${order.length} answers`);
    node.append(element("p", {}, more, " ", element("span", { className: "quiet" }, "flips stand first; a budget or a name leaves fewer")));
  }
}

/** Flips first: they are what one looks for. */
function rank(group, question, place) {
  return { lost: 0, won: 1, "": 2 }[flip(group, question, place)];
}

/** One answer, with the image as the model had it. */
function answerCard(group, question, place) {
  const cell = group.cells[place], answer = question.answers[place];
  const right = isRight(group, answer), turned = flip(group, question, place);
  const card = element("section", { className: `answer ${right === null ? "" : right ? "right" : "wrong"}` });
  card.append(element("h4", {}, named(cell.method), element("span", { className: "quiet" }, cell.method === BASELINE ? "unpruned" : budgetLabel({ budget_kind: cell.kind, ...cell })),
    turned === "lost" ? mark("right → wrong", "bad") : turned === "won" ? mark("wrong → right", "good") : null));
  if (question.image) card.append(...keptTokens(question, answer));
  if (!answer) {
    card.append(element("p", { className: "small" }, "this cell has no such question"));
    return card;
  }
  const score = typeof answer.score === "number" && answer.score !== 0 && answer.score !== 1 ? ` (score ${number(answer.score)})` : "";
  card.append(element("div", { className: "said" }, answer.text ?? answer.error ?? "no answer"));
  card.append(element("p", { className: "small" }, right === null ? "not scored" : right ? `✓ right${score}` : `✗ wrong${score}`));
  const kept = answer.stages && answer.stages.length ? `${question.available} → ${answer.stages.join(" → ")} tokens` : "";
  const recall = typeof answer.recall === "number" ? `evidence\u00a0${Math.round(100 * answer.recall)}\u00a0%` : "";
  card.append(element("p", { className: "small" }, [kept, recall].filter(Boolean).join("; ")));
  if (question.image && !answer.kept) card.append(element("p", { className: "small" }, cell.lacks || "kept tokens are not in the page"));
  return card;
}

/** The image with the kept tokens of one stage, and the stages to choose from. */
function keptTokens(question, answer) {
  const canvas = element("canvas", { role: "img" });
  const stages = (answer && answer.kept) || [];
  const draw = (stage) => {
    const kept = stage ? countBits(stage) : null;
    canvas.setAttribute("aria-label", stage ? `${kept} of ${stage.rows * stage.columns} tokens kept at ${stage.site}` : "the image");
    drawImage(canvas, question, stage);
  };
  draw(stages[stages.length - 1]);
  if (stages.length < 2) return [canvas];
  const buttons = element("div", { className: "stages", role: "group", "aria-label": "stages" });
  stages.forEach((stage, place) => {
    const choose = () => {
      draw(stage);
      for (const other of buttons.children) other.setAttribute("aria-pressed", String(other === button));
    };
    const button = element("button", { type: "button", "aria-pressed": String(place === stages.length - 1), onclick: choose }, stage.site);
    buttons.append(button);
  });
  return [canvas, buttons];
}

/** [rows * columns] whether each token is kept. */
function bitsOf(stage) {
  const bytes = atob(stage.bits);
  return Array.from({ length: stage.rows * stage.columns }, (_, place) => (bytes.charCodeAt(place >> 3) >> (7 - (place & 7))) & 1);
}

const countBits = (stage) => bitsOf(stage).reduce((sum, bit) => sum + bit, 0);

/** Draw an image, its dropped tokens dark, its evidence in a box. */
function drawImage(canvas, question, stage) {
  const image = new Image();
  image.addEventListener("load", () => {
    const scale = 420 / Math.max(image.width, image.height);
    canvas.width = Math.round(image.width * scale);
    canvas.height = Math.round(image.height * scale);
    const pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    if (stage) shade(pen, canvas, stage);
    for (const [left, top, right, bottom] of question.boxes || []) {
      const box = [left * canvas.width, top * canvas.height, (right - left) * canvas.width, (bottom - top) * canvas.height];
      pen.lineWidth = 10;
      pen.strokeStyle = "rgba(0,0,0,.75)";
      pen.strokeRect(...box);
      pen.lineWidth = 5;
      pen.strokeStyle = "#ffc400";
      pen.strokeRect(...box);
    }
  });
  image.src = question.image;
}

/** Darken what was dropped, outside the part that the tokens cover, too. */
function shade(pen, canvas, stage) {
  const [left, top, right, bottom] = stage.region;
  const width = ((right - left) * canvas.width) / stage.columns, height = ((bottom - top) * canvas.height) / stage.rows;
  const bits = bitsOf(stage);
  bits.forEach((kept, place) => {
    const x = left * canvas.width + (place % stage.columns) * width, y = top * canvas.height + Math.floor(place / stage.columns) * height;
    if (!kept) {
      pen.fillStyle = "rgba(12,14,20,.8)";
      pen.fillRect(x, y, width + .5, height + .5);
    }
    pen.lineWidth = 1;
    pen.strokeStyle = "rgba(255,255,255,.22)";
    pen.strokeRect(x, y, width, height);
  });
}
