// The table of all records: sorted, filtered, downloaded. What it leaves out is pale in the figures.
const MOST = settings.most;
const body = document.querySelector("#records tbody");
const rows = [...body.rows].map((tr, place) => ({ tr, run: data.rows[place][at.run], place, shown: true }));
let whole = false;

function arrange() {
  const fragment = document.createDocumentFragment();
  let count = 0;
  for (const one of rows) {
    one.tr.hidden = !one.shown || (!whole && count >= MOST);
    count += one.shown ? 1 : 0;
    fragment.append(one.tr);
  }
  body.append(fragment);
  tell(count);
}

function tell(count) {
  element("all").hidden = whole || count <= MOST;
  element("all").textContent = `show all ${count}`;
  element("shown").textContent = `${count} of ${rows.length} runs` + (!whole && count > MOST ? `, the first ${MOST} shown` : "");
}

function sortBy(head) {
  const down = head.getAttribute("aria-sort") === "ascending", column = at[head.dataset.column];
  for (const other of document.querySelectorAll("#records th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = (one) => data.rows[one.place][column];
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

function keeps(word) {
  const match = word.match(/^(\w+)(<=|>=|<|>|=)([-+\d.eE]+)$/);
  if (!match || !(match[1] in at) || Number.isNaN(Number(match[3]))) return (one) => textOf(one).includes(word);
  const column = at[match[1]], wanted = Number(match[3]);
  return (one) => data.rows[one.place][column] !== null && compared[match[2]](Number(data.rows[one.place][column]), wanted);
}

function filter() {
  const tests = element("filter").value.toLowerCase().split(/\s+/).filter(Boolean).map(keeps);
  for (const name of ["status", "sublayers"]) {
    const wanted = element(name).value;
    if (wanted) tests.push((one) => data.rows[one.place][at[name]] === wanted);
  }
  for (const one of rows) one.shown = tests.every((test) => test(one));
  arrange();
  dim();
}

// what the filter leaves out is pale in the figures, too
function dim() {
  const kept = new Set(rows.filter((one) => one.shown).map((one) => one.run));
  for (const div of figures) {
    if (!div.data) continue;
    const places = [...div.data.keys()].filter((place) => div.data[place].customdata && String(div.data[place].mode).startsWith("markers"));
    if (!places.length) continue;
    const chosen = places.map((place) => {
      if (kept.size === rows.length) return null;
      return [...div.data[place].customdata.keys()].filter((n) => kept.has(div.data[place].customdata[n]));
    });
    Plotly.restyle(div, { selectedpoints: chosen, "unselected.marker.opacity": 0.08 }, places);
  }
}

function download() {
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
  button.addEventListener("click", () => sortBy(head));
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
