// Pass and fail with a comment: kept in this browser under the id of the report, exported to and loaded from CSV.
const MARKS = `nnunet-spine-report:${data.id}`;
const COLUMNS = ["case", "mark", "comment", "marked_at"];
const marks = new Map();

const keepMarks = () => {
  if (!storage.write(MARKS, JSON.stringify(Object.fromEntries(marks)))) {
    say("This browser keeps no marks for this page: export them before you close it.");
  }
};
const readMarks = () => {
  try {
    for (const [name, mark] of Object.entries(JSON.parse(storage.read(MARKS) || "{}"))) marks.set(name, mark);
  } catch {
    marks.clear();
  }
};
const markOf = (n) => marks.get(nameOf(n)) || { mark: "", comment: "", at: "" };

const showMark = (n) => {
  const { mark, comment } = markOf(n);
  const body = bodies[n];
  body.dataset.mark = mark;
  press(body.querySelectorAll("button[data-mark]"), (button) => button.dataset.mark === mark);
  let remark = body.querySelector(".remark");
  if (!remark && comment) {
    remark = make("span", { className: "remark" });
    body.querySelector(".who").append(remark);
  }
  if (remark) remark.textContent = comment;
  const box = body.querySelector("textarea");
  if (box && box.value !== comment) box.value = comment;
};
const countMarks = () => {
  const count = (wanted) => bodies.filter((body) => body.dataset.mark === wanted).length;
  byId("marked").textContent = `${count("pass")} passed, ${count("fail")} failed, ${count("")} open`;
};
const setMark = (n, change) => {
  const mark = { ...markOf(n), ...change, at: new Date().toISOString() };
  if (mark.mark || mark.comment) marks.set(nameOf(n), mark);
  else marks.delete(nameOf(n));
  keepMarks();
  showMark(n);
  countMarks();
};

// A spreadsheet takes a text that begins like this for a formula.
const guarded = (text) => (/^[=+\-@\t]/.test(text) ? `'${text}` : text);
const quoted = (text) => `"${guarded(text).replaceAll('"', '""')}"`;
const marksAsCsv = () => {
  const lines = [COLUMNS.join(",")];
  for (const n of bodies.keys()) {
    const { mark, comment, at } = markOf(n);
    lines.push([nameOf(n), mark, comment, at || ""].map(quoted).join(","));
  }
  return `${lines.join("\r\n")}\r\n`;
};
const csvRows = (text) => {
  const rows = [[]];
  for (const [, quotedCell, plainCell, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    const row = rows[rows.length - 1];
    row.push((quotedCell === undefined ? plainCell : quotedCell.replaceAll('""', '"')).replace(/^'(?=[=+\-@\t])/, ""));
    if (end !== ",") rows.push([]);
    if (end === "") break;
  }
  return rows.filter((row) => row.some((cell) => cell !== ""));
};
const loadCsv = (text) => {
  const [head = [], ...rows] = csvRows(text.replace(/^\ufeff/, ""));
  const [name, mark, comment, at] = COLUMNS.map((column) => head.indexOf(column));
  if (name < 0 || mark < 0) {
    say("No marks loaded: the first line must name the columns case and mark.");
    return;
  }
  const known = new Set(data.cases.map(([label]) => label));
  const found = rows.filter((row) => known.has(row[name]));
  for (const row of found) {
    const value = { mark: ["pass", "fail"].includes(row[mark]) ? row[mark] : "", comment: row[comment] || "" };
    if (value.mark || value.comment) marks.set(row[name], { ...value, at: row[at] || "" });
  }
  keepMarks();
  for (const n of bodies.keys()) showMark(n);
  countMarks();
  const others = rows.length - found.length;
  say(`Marks of ${found.length} cases loaded${others ? `, ${others} of other cases left out` : ""}.`);
};
const exportMarks = () => {
  // The mark tells spreadsheets that the file is UTF-8.
  const blob = new Blob(["\ufeff", marksAsCsv()], { type: "text/csv;charset=utf-8" });
  const link = make("a", { href: URL.createObjectURL(blob), download: `marks-${data.id}.csv` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(`Marks of ${bodies.length} cases exported.`);
};
