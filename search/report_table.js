// The table of all records: sorted, filtered, downloaded.
const MOST = settings.most;
const body = document.querySelector("#records tbody");
const rows = [...body.rows].map((tr, place) => ({ tr, run: data.rows[place][at.run], place, shown: true, beyond: place >= MOST }));
const rowOf = new Map(rows.map((one) => [one.run, one]));
let whole = false, sorted = null;

function arrange() {
  const fragment = document.createDocumentFragment();
  let count = 0;
  for (const one of rows) {
    one.beyond = !whole && count >= MOST;
    count += one.shown ? 1 : 0;
    hide(one);
    fragment.append(one.tr);
  }
  body.append(fragment);
  tell(count);
}

// the selected run is shown wherever it stands
function hide(one) { one.tr.hidden = !one.shown || (one.beyond && one.run !== selected); }

function tell(count) {
  element("all").hidden = whole || count <= MOST;
  element("all").textContent = `show all ${count}`;
  element("shown").textContent = `${count} of ${rows.length} runs` + (!whole && count > MOST ? `, the first ${MOST} shown` : "");
}

function sortBy(column, down) {
  sorted = [column, down];
  for (const head of document.querySelectorAll("#records th")) {
    if (head.dataset.column === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  const value = (one) => data.rows[one.place][at[column]];
  const unknown = (one) => value(one) === null || value(one) === "";
  rows.sort((a, b) => {
    if (unknown(a) || unknown(b)) return unknown(a) - unknown(b) || a.place - b.place;
    const order = typeof value(a) === "number" ? value(a) - value(b) : String(value(a)).localeCompare(String(value(b)), "en", { numeric: true });
    return (down ? -order : order) || a.place - b.place;
  });
  arrange();
}

const compared = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b };

function textOf(one) {
  one.text ??= one.tr.textContent.toLowerCase(); // of thousands of rows only when it is asked for
  return one.text;
}

// whether a word lets a row pass: a column compared with a number or a word, a run, or a part of what stands in the row
function keeps(word, complain) {
  const [, column, sign, text] = word.match(/^([a-z_]\w*)(<=|>=|<|>|=)(.+)$/) ?? [];
  const number = Number(text), known = column in at;
  if (sign && sign !== "=" && (!known || Number.isNaN(number))) {
    complain(known ? `${text} is no number` : `there is no column ${column}, but ${numbers().join(", ")}`);
    return () => true;
  }
  if (known) {
    const value = (one) => data.rows[one.place][at[column]];
    if (Number.isNaN(number)) return (one) => String(value(one)).toLowerCase() === text;
    return (one) => value(one) !== null && compared[sign](Number(value(one)), number);
  }
  return runs.has(word) ? (one) => one.run === word : (one) => textOf(one).includes(word);
}

function filter() {
  const complaints = [], text = element("filter").value.toLowerCase().replace(/\s*(<=|>=|<|>|=)\s*/g, "$1");
  const tests = text.split(/\s+/).filter(Boolean).map((word) => keeps(word, (complaint) => complaints.push(complaint)));
  for (const name of ["status", "sublayers"]) {
    const wanted = element(name).value;
    if (wanted) tests.push((one) => data.rows[one.place][at[name]] === wanted);
  }
  for (const one of rows) one.shown = tests.every((test) => test(one));
  arrange();
  element("shown").textContent += complaints.map((one) => `; ${one}`).join("");
  element("filter").setAttribute("aria-invalid", String(complaints.length > 0));
  inTurn(dim);
}

const numbers = () => data.columns.filter((name) => data.rows.some((row) => typeof row[at[name]] === "number"));

function download() {
  filter(); // what was typed a moment ago counts
  const cell = (value) => (value === null ? "" : /[",\n\r]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  const lines = [data.columns, ...rows.filter((one) => one.shown).map((one) => data.rows[one.place])].map((row) => row.map(cell).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = "records.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

for (const head of document.querySelectorAll("#records th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  button.addEventListener("click", () => sortBy(head.dataset.column, head.getAttribute("aria-sort") === "ascending"));
  head.replaceChildren(button);
}
for (const name of ["status", "sublayers"]) {
  for (const value of new Set(data.rows.map((row) => row[at[name]]))) element(name).add(new Option(value, value));
  element(name).addEventListener("change", filter);
}
let typed = 0;
element("filter").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(filter, 150);
});
element("all").addEventListener("click", () => { whole = true; arrange(); });
element("download").addEventListener("click", download);
