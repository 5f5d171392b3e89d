// What the reader does: clicks, keys, drags; and how the page begins.
const THEME = "nnunet-spine-report:theme";
const setTheme = (theme) => {
  document.documentElement.dataset.theme = theme;
  press(document.querySelectorAll("[data-theme-choice]"), (button) => button.dataset.themeChoice === theme);
};
const caseOf = (element) => {
  const body = element.closest("tbody.case");
  return body ? Number(body.dataset.n) : -1;
};
const toggle = (n) => {
  if (isOpen(n)) close(n);
  else select(n, false);
};
const openMany = () => {
  const list = visible().slice(0, 25);
  for (const n of list) open(n);
  say(list.length < visible().length ? `The first ${list.length} cases are open.` : "");
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  const n = caseOf(event.target);
  if (!button) {
    const row = event.target.closest("tbody.case > tr:first-child");
    if (row && !window.getSelection().toString()) toggle(n);
    return;
  }
  const chosen = button.dataset;
  if (chosen.sort) sortBy(chosen.sort);
  else if (button.classList.contains("open")) toggle(n);
  else if (chosen.mark) setMark(n, { mark: markOf(n).mark === chosen.mark ? "" : chosen.mark });
  else if (chosen.themeChoice) {
    setTheme(chosen.themeChoice);
    storage.write(THEME, chosen.themeChoice);
  } else if (chosen.labels) toggleLabels(chosen.kind, chosen.labels.split(" ").map(Number));
  else if (button.closest("[data-look]")) setLook({ [button.closest("[data-look]").dataset.look]: button.value });
  else if (button.id === "direction") sortBy(wanted.sort);
  else if (button.id === "export") exportMarks();
  else if (button.id === "load") byId("file").click();
  else if (button.id === "open-all") openMany();
  else if (button.id === "close-all") for (const k of bodies.keys()) close(k);
});
document.addEventListener("input", (event) => {
  const { target } = event;
  const name = target.dataset.look;
  if (name) setLook({ [name]: target.type === "checkbox" ? target.checked : name === "alpha" ? target.value / 100 : Number(target.value) });
  else if (target.matches("textarea")) setMark(caseOf(target), { comment: target.value });
  else if (target.id === "sort") {
    wanted.worst = true;
    wanted.sort = target.value;
    sort();
  } else if (target.id === "find") wanted.find = target.value.toLocaleLowerCase();
  else if (target.id === "status" || target.id === "mark") wanted[target.id] = target.value;
  if (["find", "status", "mark"].includes(target.id)) filter();
});
byId("file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file) loadCsv(await file.text());
  event.target.value = "";
});

// Dragging on a picture moves the boundary between before and after.
const dragTo = (event) => {
  const stack = event.target.closest('.stack[data-compare="slider"]');
  if (!stack || !(event.buttons & 1)) return;
  const box = stack.getBoundingClientRect();
  setLook({ cut: Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width))) });
};
document.addEventListener("pointerdown", dragTo);
document.addEventListener("pointermove", dragTo);

// Plots: the dot nearest to the pointer names its case, a click opens it.
const dotNear = (event) => {
  const drawing = event.target.closest(".plots svg");
  if (!drawing) return null;
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
  let best = null;
  for (const path of drawing.querySelectorAll("path[data-cases]")) {
    path.points = path.points || Array.from(path.getAttribute("d").matchAll(/M([\d.-]+) ([\d.-]+)/g), ([, x, y]) => [Number(x), Number(y)]);
    path.points.forEach(([x, y], k) => {
      const distance = Math.hypot(x - at.x, y - at.y);
      if (distance < 7 && (!best || distance < best.distance)) best = { distance, path, k };
    });
  }
  if (!best) return null;
  const { cases, values } = best.path.dataset;
  return { n: Number(cases.split(" ")[best.k]), value: values.split(" ")[best.k] };
};
document.addEventListener("pointermove", (event) => {
  const found = dotNear(event);
  const tip = byId("tip");
  tip.hidden = !found;
  if (!found) return;
  tip.textContent = `${nameOf(found.n)}: ${found.value}`;
  tip.style.left = `${Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${event.clientY + 14}px`;
});
document.addEventListener("click", (event) => {
  const found = dotNear(event);
  if (found) select(found.n);
});

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  o: () => current >= 0 && toggle(current),
  p: () => current >= 0 && setMark(current, { mark: "pass" }),
  f: () => current >= 0 && setMark(current, { mark: "fail" }),
  u: () => current >= 0 && setMark(current, { mark: "" }),
  c: () => current >= 0 && isOpen(current) && bodies[current].querySelector("textarea").focus(),
  1: () => setLook({ mode: "overlay" }),
  2: () => setLook({ mode: "outline" }),
  3: () => setLook({ mode: "plain" }),
  s: () => setLook({ what: look.what === "classes" ? "instances" : "classes" }),
  b: () => table.querySelector("[data-has=before]:not([hidden])") && setLook({ compare: look.compare === "before" ? "after" : "before" }),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && event.target.matches("textarea")) event.target.blur();
  if (event.target.matches("input, textarea, select") || !Object.hasOwn(KEYS, event.key)) return;
  KEYS[event.key]();
  event.preventDefault();
});

const follow = () => {
  const n = bodies.findIndex((body) => `#${body.id}` === location.hash);
  if (n >= 0) select(n);
};
window.addEventListener("hashchange", follow);
window.addEventListener("resize", spanColumns);
// Paper has no viewport: what is open is painted whole.
window.addEventListener("beforeprint", () => {
  for (const plane of planes.values()) plane.paint();
});

setTheme(storage.read(THEME) || "auto");
readMarks();
for (const n of bodies.keys()) showMark(n);
countMarks();
sort();
filter();
// The pictures follow this script in the file: the table works before they have been read.
document.addEventListener("DOMContentLoaded", () => {
  if (location.hash.startsWith("#case-")) follow();
  else {
    const first = visible().find((n) => contents(n).pictures.length);
    if (first !== undefined) select(first, false);
  }
  document.documentElement.dataset.ready = "yes";
});
