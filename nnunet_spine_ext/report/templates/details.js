// What a case shows when it is opened; built then, thrown away when it is closed.
const contents = (n) => JSON.parse(byId(`data-${n + 1}`).textContent);
let current = -1;

const problemBlock = (problem) => {
  const block = clone("t-problem");
  block.classList.add(problem.severity, ...(problem.red ? ["red"] : []));
  block.querySelector("strong").textContent = problem.severity === "error" ? "Error" : "Warning";
  block.querySelector("code").textContent = problem.code;
  const list = block.querySelector("dl");
  for (const [key, text] of [["file", problem.file], ["found", problem.found], ["expected", problem.expected], ["do", problem.fix]]) {
    if (text) list.append(make("div", {}, make("dt", { textContent: key }), make("dd", { textContent: text })));
  }
  return block;
};
const KINDS = ["Vertebrae", "Discs", "Endplates"];
const legendKind = (one) => {
  const [picture] = one.pictures;
  if (!Object.keys(one.instances).length || !picture || kindOf(picture.layers) === "classes") return "classes";
  return one.counted ? "counted" : "instances";
};
// One button per label shows and hides it in every picture; one per kind of instance does so for all of its labels.
const legendList = (kind, entries, title) => {
  const list = make("ul", { className: "legend", ariaLabel: title });
  if (kind !== "classes") {
    const whole = make("button", { type: "button", className: "kind", textContent: title });
    whole.dataset.kind = kind;
    whole.dataset.labels = entries.map(([id]) => id).join(" ");
    whole.setAttribute("aria-pressed", String(entries.some(([id]) => !hidden[kind].has(Number(id)))));
    list.append(make("li", {}, whole));
  }
  for (const [id, ml] of entries) {
    const [name, colour] = data.names[kind][id] || [`label ${id}`, "#888888"];
    const button = make("button", { type: "button" }, chip(colour), name, make("small", { textContent: ` ${ml.toFixed(ml < 0.1 ? 2 : 1)} mL` }));
    button.dataset.kind = kind;
    button.dataset.labels = id;
    button.setAttribute("aria-pressed", String(!hidden[kind].has(Number(id))));
    list.append(make("li", {}, button));
  }
  return list;
};
const legends = (one) => {
  if (look.compare === "changes" && one.change) {
    const keys = CHANGES.map(([text, colour]) => make("li", {}, chip(colour), text));
    return [make("ul", { className: "legend plain-keys", ariaLabel: "Changes" }, ...keys)];
  }
  const kind = legendKind(one);
  if (kind === "classes") {
    const list = legendList(kind, Object.entries(one.classes), "Classes");
    const replaced = look.what !== kind && look.compare !== "after" && one.pictures.some((picture) => picture.layers[look.what]);
    return replaced ? [make("p", { className: "hint", textContent: "There are no earlier instances: classes are compared." }), list] : [list];
  }
  const entries = Object.entries(one.instances);
  const ofKind = KINDS.map((title, k) => [title, entries.filter(([id]) => Math.floor(id / 100) === k)]);
  return ofKind.filter(([, found]) => found.length).map(([title, found]) => legendList(kind, found, title));
};
const rowsTable = (head, rows, caption) => {
  const made = make("table", {}, make("caption", { textContent: caption }));
  made.append(make("thead", {}, make("tr", {}, ...head.map(([text, unit], at) => make("th", { scope: "col", className: at ? "num" : "" }, text, make("span", { className: "unit", textContent: unit || "" }))))));
  made.append(make("tbody", {}, ...rows.map(([label, ...cells]) => make("tr", {}, make("th", { scope: "row" }, ...[label].flat()), ...cells.map((text) => make("td", { className: "num", textContent: text }))))));
  return make("div", { className: "scroll", tabIndex: 0, role: "group", ariaLabel: caption }, made);
};
const folded = (title, content, open = false) => make("details", { className: "inner", open }, make("summary", { textContent: title }), content);
const coloured = (label) => {
  const known = Object.values(data.names.classes).find(([name]) => name === label);
  return known ? [chip(known[1]), label] : [label];
};
const scoreTables = (n) => data.scores.scopes.filter((scope) => scope.values[n]).map((scope, at) => {
  const head = [[scope.corner], ...scope.metrics.map((name) => {
    const { title, unit, arrow } = data.scores.metrics[name];
    return [title, `${unit} ${arrow}`.trim()];
  })];
  const rows = scope.labels.map((label, k) => [label, scope.values[n][k]]).filter(([, values]) => values);
  const lines = rows.map(([label, values]) => [coloured(label), ...values.map((value, k) => figure(value, data.scores.metrics[scope.metrics[k]].digits))]);
  return folded(`Scores: ${scope.title.toLowerCase()}`, rowsTable(head, lines, `${scope.title} of ${nameOf(n)}`), at === 0);
});
const changeTable = (one, n) => {
  const lines = one.change.map(([id, before, after, dice]) => [data.names.classes[id][0], before.toFixed(2), after.toFixed(2), (after - before).toFixed(2), dice.toFixed(3)]);
  const rows = lines.map(([label, ...cells]) => [coloured(label), ...cells]);
  return folded("Before and after", rowsTable([["Structure"], ["Before", "mL"], ["After", "mL"], ["Difference", "mL"], ["Dice of both"]], rows, `Before and after of ${nameOf(n)}`));
};

const fill = (box, n) => {
  const one = contents(n);
  const place = (name) => box.querySelector(`[data-place="${name}"]`);
  place("problems").append(...one.problems.map(problemBlock), ...one.notes.map((text) => make("p", { className: "note", textContent: text })));
  const made = one.pictures.map((picture) => new Plane(picture, nameOf(n), one.counted));
  place("planes").append(...made.map((plane) => plane.element));
  place("planes").style.setProperty("--sum", one.pictures.reduce((sum, p) => sum + p.width / p.height, 0).toFixed(3));
  const has = { pictures: made.length, instances: made.length && Object.keys(one.instances).length, before: made.length && one.change };
  for (const part of box.querySelectorAll("[data-has]")) part.hidden = !has[part.dataset.has];
  place("legend").append(...legends(one));
  place("counted").hidden = !one.counted;
  const facts = [...one.facts, ...one.inputs.map((text) => ["Input", text])];
  place("facts").append(...facts.map(([key, text]) => make("span", {}, make("i", { textContent: key }), ` ${text}`)));
  place("tables").append(...scoreTables(n), ...(one.change ? [changeTable(one, n)] : []));
  for (const { caption, head, rows } of one.crossing) {
    place("tables").append(folded(caption, rowsTable(head.map((text) => [text]), rows, `${caption} of ${nameOf(n)}`)));
  }
  if (one.qc.length) place("tables").append(folded("Quality control", rowsTable([["Entry"], ["Value"]], one.qc, `Quality control of ${nameOf(n)}`)));
  box.content = one;
  for (const plane of made) {
    planes.set(plane.element, plane);
    watcher.observe(plane.element);
  }
};
// Columns that a narrow window hides must not be spanned either.
const columnsShown = () => Array.from(table.tHead.rows[0].cells).filter((cell) => cell.offsetWidth > 0).length;
const spanColumns = () => {
  const count = columnsShown();
  for (const row of table.querySelectorAll("tr.details")) row.cells[0].colSpan = count;
};
const isOpen = (n) => bodies[n].rows.length > 1;
const open = (n) => {
  if (isOpen(n) || !byId(`data-${n + 1}`)) return;
  const row = make("tr", { className: "details" }, make("td", { colSpan: columnsShown() }, clone("t-details")));
  row.id = `details-${n + 1}`;
  fill(row, n);
  bodies[n].append(row);
  const button = bodies[n].querySelector("button.open");
  button.setAttribute("aria-expanded", "true");
  button.setAttribute("aria-controls", row.id);
  showMark(n);
  showLook(row);
};
const close = (n) => {
  if (!isOpen(n)) return;
  const row = bodies[n].rows[1];
  for (const element of row.querySelectorAll(".plane")) {
    watcher.unobserve(element);
    seen.delete(planes.get(element));
    planes.delete(element);
  }
  row.remove();
  const button = bodies[n].querySelector("button.open");
  button.setAttribute("aria-expanded", "false");
  button.removeAttribute("aria-controls");
};
const select = (n, scroll = true) => {
  if (current >= 0) bodies[current].classList.remove("current");
  current = n;
  bodies[n].classList.add("current");
  bodies[n].hidden = false;
  open(n);
  if (scroll) bodies[n].scrollIntoView({ block: "start" });
};
// One open case at a time while walking.
const step = (by) => {
  const list = visible();
  if (!list.length) return;
  const at = list.indexOf(current);
  const next = list[Math.min(list.length - 1, Math.max(0, at < 0 ? (by > 0 ? 0 : list.length - 1) : at + by))];
  if (current >= 0 && current !== next) close(current);
  select(next);
};

// Buttons and pictures follow the view that was chosen, in every open case.
const showLook = (part = document) => {
  for (const group of part.querySelectorAll("[data-look]")) {
    press(group.querySelectorAll("button"), (button) => button.value === look[group.dataset.look]);
  }
  for (const input of part.querySelectorAll("input[data-look]")) {
    if (input.type === "checkbox") input.checked = look[input.dataset.look];
    else input.value = input.dataset.look === "alpha" ? look.alpha * 100 : look[input.dataset.look];
  }
  document.body.dataset.names = look.names ? "on" : "off";
  document.body.dataset.compare = look.compare;
  document.documentElement.style.setProperty("--cut", `${look.cut}%`);
};
const setLook = (change) => {
  Object.assign(look, change);
  showLook();
  if ("cut" in change || "names" in change) return;
  for (const row of table.querySelectorAll("tr.details")) row.querySelector('[data-place="legend"]').replaceChildren(...legends(row.content));
  repaint();
};
// One label, or all of a kind: those that are hidden are shown when none of them is shown, else the others are hidden.
const toggleLabels = (kind, ids) => {
  const show = ids.every((id) => hidden[kind].has(id));
  for (const id of ids) {
    if (show) hidden[kind].delete(id);
    else hidden[kind].add(id);
  }
  const row = document.activeElement.closest("tr.details");
  setLook({});
  // The buttons are new: the one that was pressed keeps the focus.
  if (row) row.querySelector(`.legend button[data-kind="${kind}"][data-labels="${ids.join(" ")}"]`).focus();
};
