// The table of cases: order, filters, the column of the chosen measure.
const table = byId("table");
const wanted = { sort: data.sort, worst: true, status: "all", mark: "all", find: "" };

const lost = (n) => data.cases[n][1] === "failed" || data.cases[n][1] === "missing";
// Worst first: cases without a mask, then the others by value, then those without a value.
const rank = (measure, n) => {
  const value = number(measure.values[n]);
  if (value === null) return [lost(n) && measure.better ? 0 : 2, 0];
  const signed = { higher: value, lower: -value, zero: -Math.abs(value) }[measure.better];
  return [1, signed === undefined ? -value : signed];
};
const byName = (a, b) => nameOf(a).localeCompare(nameOf(b), undefined, { numeric: true });
const inOrder = () => {
  const numbers = Array.from(bodies.keys());
  const direction = wanted.worst ? 1 : -1;
  const measure = measures.get(wanted.sort);
  if (!measure) return numbers.sort((a, b) => direction * byName(a, b));
  const ranks = numbers.map((n) => rank(measure, n));
  return numbers.sort((a, b) => {
    const [first, second] = [ranks[a], ranks[b]];
    if (first[0] !== second[0]) {
      const known = first[0] < 2 && second[0] < 2;
      return (known ? direction : 1) * (first[0] - second[0]);
    }
    return direction * (first[1] - second[1]) || byName(a, b);
  });
};
// What aria-sort says about the values themselves.
const sense = () => {
  const measure = measures.get(wanted.sort);
  const rising = !measure || measure.better === "higher" ? wanted.worst : !wanted.worst;
  return rising ? "ascending" : "descending";
};

const keyCells = bodies.map((body) => body.querySelector(".key"));
let shownKey = null;
const showKey = () => {
  const sorted = measures.get(wanted.sort);
  const named = sorted && sorted.key !== "status";
  const key = named ? sorted : data.measures.find((one) => one.column);
  table.classList.toggle("extra", Boolean(named && !sorted.column));
  byId("key").textContent = key ? key.title : "";
  byId("key-unit").textContent = key ? key.unit : "";
  // Writing cells that nobody sees, or that say the same, would cost a layout of the whole table.
  if (shownKey === key) return;
  shownKey = key;
  for (const [n, cell] of keyCells.entries()) cell.textContent = key ? figure(key.values[n], key.digits) : "";
};
const sort = () => {
  const order = inOrder();
  const focused = document.activeElement;
  if (order.some((n, place) => table.tBodies[place] !== bodies[n])) table.append(...order.map((n) => bodies[n]));
  if (table.contains(focused)) focused.focus();
  for (const head of table.querySelectorAll("th[data-sort]")) {
    const chosen = head.dataset.sort === wanted.sort || head.classList.contains("key");
    head.setAttribute("aria-sort", chosen ? sense() : "none");
  }
  byId("sort").value = wanted.sort;
  byId("direction").textContent = wanted.worst ? "worst first" : "best first";
  if (!measures.has(wanted.sort)) byId("direction").textContent = wanted.worst ? "A to Z" : "Z to A";
  showKey();
  spanColumns();
};
const sortBy = (chosen) => {
  const key = chosen === "key" ? wanted.sort : chosen;
  wanted.worst = key === wanted.sort ? !wanted.worst : true;
  wanted.sort = key;
  sort();
};

const fits = (n) => {
  const [name, status, warnings] = data.cases[n];
  const mark = bodies[n].dataset.mark || "";
  const right = wanted.status === "all" || status === wanted.status || (wanted.status === "warned" && warnings > 0);
  const marked = wanted.mark === "all" || mark === (wanted.mark === "open" ? "" : wanted.mark);
  return right && marked && name.toLocaleLowerCase().includes(wanted.find);
};
const filter = () => {
  let shown = 0;
  for (const [n, body] of bodies.entries()) {
    body.hidden = !fits(n);
    shown += body.hidden ? 0 : 1;
  }
  byId("shown").textContent = `${shown} of ${bodies.length} cases`;
  byId("none").hidden = shown > 0;
};
const visible = () => Array.from(table.tBodies, (body) => Number(body.dataset.n)).filter((n) => !bodies[n].hidden);
