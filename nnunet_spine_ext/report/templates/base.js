// Shared by everything below: the data of the page, its settings, small helpers.
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const measures = new Map(data.measures.map((one) => [one.key, one]));
// In their first order: the number of a case is its place here.
const bodies = Array.from(document.querySelectorAll("tbody.case"));

// Which pictures are shown, and how; the same for all cases.
const look = { mode: "overlay", what: "classes", compare: "after", names: true, alpha: 0.45, cut: 50 };
const hidden = { classes: new Set(), instances: new Set(), counted: new Set() };

// A browser may refuse storage to pages from disk; the page then works without.
const storage = {
  read(key) {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  },
  write(key, value) {
    try {
      localStorage.setItem(key, value);
      return true;
    } catch {
      return false;
    }
  },
};

const say = (text) => {
  byId("said").textContent = text;
};
const clone = (id) => byId(id).content.firstElementChild.cloneNode(true);
const make = (tag, facts = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(facts)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
};
const chip = (colour) => {
  const made = make("span", { className: "chip" });
  made.style.background = colour;
  return made;
};
const press = (buttons, chosen) => {
  for (const button of buttons) button.setAttribute("aria-pressed", String(chosen(button)));
};
const number = (value) => (value === "inf" ? Infinity : value === "-inf" ? -Infinity : value);
const figure = (value, digits) => {
  const known = number(value);
  if (known === null || known === undefined) return "–";
  return Number.isFinite(known) ? known.toFixed(digits) : known > 0 ? "∞" : "−∞";
};
const nameOf = (n) => data.cases[n][0];
