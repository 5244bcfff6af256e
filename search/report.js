// The page of a search: figures, the table of records, and the run that is selected in all of them.
// Text from records is only ever set as text, or escaped where plotly.js takes markup.
"use strict";

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const data = read("data"), settings = read("settings"), drawings = read("drawings");
const at = Object.fromEntries(data.columns.map((name, place) => [name, place]));
const runs = new Map(data.rows.map((row, place) => [row[at.run], { row, picture: data.pictures[place], place }]));
const get = (run, name) => runs.get(run).row[at[name]];
const element = (id) => document.getElementById(id);
const escaped = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const figures = Object.keys(drawings).map(element).filter((div) => div !== null);
const shownRuns = () => rows.filter((one) => one.shown).map((one) => one.run);

// what is written where the pointer is

function words(run) {
  if (!runs.has(run)) return escaped(run);
  const arm = get(run, "arm"), delta = get(run, "delta_nats");
  const against = delta === null || arm === "dense" ? "" : `<br>${delta >= 0 ? "+" : "−"}${Math.abs(delta).toFixed(4)} nats against dense ${escaped(get(run, "against_dense"))}`;
  const perplexity = get(run, "perplexity");
  return `<b>${escaped(run)}</b> ${escaped(arm)}<br>${escaped(get(run, "placement"))}, d_ff ${get(run, "d_ff")}${against}` +
    (perplexity === null ? "" : `<br>perplexity ${perplexity.toPrecision(5)}`);
}

// figures

const SELECTED = "selected";

function axesOf(trace) { return `${trace.xaxis ?? "x"} ${trace.yaxis ?? "y"}`; }

function drawn(name) {
  const { data: traces, layout } = drawings[name];
  const axes = new Set();
  for (const trace of traces) {
    if (trace.hovertemplate?.startsWith("%{text}")) {
      trace.text = trace.customdata.map((run) => (run === null ? "" : words(run)));
      if (trace.type === "bar") trace.textposition = "none";
      axes.add(axesOf(trace));
    }
  }
  const marks = [...axes].map((pair) => {
    const [xaxis, yaxis] = pair.split(" ");
    return {
      type: "scatter", x: [], y: [], xaxis, yaxis, mode: "lines+markers", hoverinfo: "skip", showlegend: false, meta: SELECTED, cliponaxis: false,
      marker: { size: 17, symbol: "circle-open", color: "#c2185b", line: { width: 3 } }, line: { color: "#c2185b", width: 4 },
    };
  });
  return [[...traces, ...marks], layout];
}

function draw(div) {
  const [traces, layout] = drawn(div.id);
  return Plotly.newPlot(div, traces, layout, settings.config).then(() => {
    div.on("plotly_click", (event) => {
      const run = event.points.map((point) => point.customdata).find((one) => runs.has(one));
      if (run !== undefined) select(run);
    });
    if (div.id.startsWith("front_")) div.on("plotly_relayout", (change) => { if (!("yaxis.tickvals" in change)) rescale(div); });
  });
}

// where a run stands in a figure, as points of the mark that is drawn over them
function places(traces, pair, run) {
  const x = [], y = [];
  for (const trace of traces) {
    if (trace.meta === SELECTED || !trace.customdata || axesOf(trace) !== pair) continue;
    trace.customdata.forEach((one, place) => {
      if (one !== run) return;
      if (trace.type === "bar") {
        const start = trace.base[place];
        x.push(start, start + trace.x[place], null);
        y.push(trace.y[place], trace.y[place], null);
        return;
      }
      x.push(trace.x[place]);
      y.push(trace.y[place]);
      if (!trace.mode.includes("lines") || trace.customdata[place + 1] !== run) {
        x.push(null);
        y.push(null);
      }
    });
  }
  return [x, y];
}

function mark(run) {
  for (const div of figures) {
    if (!div.data) continue;
    div.data.forEach((trace, place) => {
      if (trace.meta !== SELECTED) return;
      const [x, y] = run === null ? [[], []] : places(div.data, axesOf(trace), run);
      Plotly.restyle(div, { x: [x], y: [y] }, [place]);
    });
  }
}

// the loss in other units: the same picture with other words at its axis

const perNat = data.bits_per_byte_per_nat;
const scales = {
  loss_nats: null,
  perplexity: { title: "validation perplexity of the proxy, a token (perplexity)", to: Math.exp, from: Math.log },
  bits_per_byte: perNat && { title: "validation loss of the proxy (bits_per_byte)", to: (nats) => nats * perNat, from: (bits) => bits / perNat },
};
let scale = "loss_nats";
const titles = Object.fromEntries(Object.keys(drawings).map((name) => [name, drawings[name].layout.yaxis?.title?.text])); // plotly.js changes what it draws

function niceTicks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high; n++) ticks.push(Number((n * step).toPrecision(12)));
  return ticks;
}

function rescale(div) {
  const unit = scales[scale];
  if (!unit) return Plotly.relayout(div, { "yaxis.tickvals": null, "yaxis.ticktext": null, "yaxis.tickmode": "auto", "yaxis.title.text": titles[div.id] });
  const [low, high] = div._fullLayout.yaxis.range;
  const ticks = niceTicks(unit.to(low), unit.to(high), 8).filter((one) => one > 0);
  return Plotly.relayout(div, { "yaxis.tickmode": "array", "yaxis.tickvals": ticks.map(unit.from), "yaxis.ticktext": ticks.map(String), "yaxis.title.text": unit.title });
}

for (const button of document.querySelectorAll("[data-scale]")) {
  button.disabled = button.dataset.scale !== "loss_nats" && !scales[button.dataset.scale];
  button.addEventListener("click", () => {
    scale = button.dataset.scale;
    for (const other of document.querySelectorAll("[data-scale]")) other.setAttribute("aria-pressed", String(other === button));
    figures.filter((div) => div.id.startsWith("front_") && div.data).forEach(rescale);
  });
}

// the table

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
  const kept = new Set(shownRuns());
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

// the run that is selected

let selected = null;

function select(run) {
  selected = run !== null && runs.has(run) ? run : null;
  for (const one of rows) one.tr.classList.toggle("selected", one.run === selected);
  element("selected").hidden = selected === null;
  document.body.classList.toggle("selecting", selected !== null);
  history.replaceState(null, "", selected === null ? location.pathname + location.search : `#${encodeURIComponent(selected)}`);
  mark(selected);
  if (selected !== null) say(selected);
}

function say(run) {
  const loss = get(run, "loss_nats"), shares = data.columns.filter((name) => name.endsWith("_share") && get(run, name) !== null);
  const parts = [loss === null ? get(run, "status") : `${loss.toFixed(4)} nats`, get(run, "against_dense") && `against dense: ${get(run, "against_dense")}`,
    ...shares.map((name) => `${get(run, name).toFixed(3)} x dense in ${name.slice(0, -6)}`)];
  element("its-run").textContent = [run, get(run, "arm")].filter(Boolean).join(", ");
  element("its-words").textContent = [...parts, get(run, "reason")].filter(Boolean).join("; ");
  element("its-placement").textContent = `${get(run, "placement")}; d_ff ${get(run, "d_ff")}`;
  const command = `${settings.export} --pick ${run}`;
  element("its-export").replaceChildren(...(loss === null || !run.startsWith("trial-") ? [note(run)] : [code(command), " ", copier(command)]));
  element("picture").replaceChildren(picture(runs.get(run).picture));
}

function note(run) { return run.startsWith("trial-") ? "It has no loss, so there is nothing to export." : "A further seed of the dense arm: nothing to export."; }

function code(text) {
  const made = document.createElement("code");
  made.textContent = text;
  return made;
}

function copier(text) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.copy = text;
  button.textContent = "copy";
  return button;
}

// layers from top to bottom, projections from left to right; white is dense, the lower the rank the darker
function picture(bands) {
  const space = "http://www.w3.org/2000/svg", layers = bands.reduce((sum, [count]) => sum + count, 0), width = 14, height = Math.min(14, 112 / layers);
  const svg = document.createElementNS(space, "svg"), across = bands.length ? bands[0][1].length : 0;
  svg.setAttribute("width", across * width);
  svg.setAttribute("height", layers * height);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "Its placement: layers from top to bottom, projections from left to right, low rank dark");
  let layer = 0;
  for (const [count, shares] of bands) {
    for (let n = 0; n < count; n++, layer++) {
      shares.forEach((share, place) => {
        const cell = document.createElementNS(space, "rect");
        const given = { x: place * width + 1, y: layer * height + 0.5, width: width - 2, height: height - 1, fill: share === null ? "#fff" : `hsl(209 75% ${20 + 60 * share}%)` };
        for (const [name, value] of Object.entries(given)) cell.setAttribute(name, value);
        svg.append(cell);
      });
    }
  }
  return svg;
}

// to the next one by loss, among those that the filter shows
function step(by) {
  const ordered = rows.filter((one) => (one.shown && get(one.run, "loss_nats") !== null) || one.run === selected)
    .sort((a, b) => (get(a.run, "loss_nats") ?? Infinity) - (get(b.run, "loss_nats") ?? Infinity) || a.place - b.place).map((one) => one.run);
  const next = ordered[ordered.indexOf(selected) + by];
  if (next !== undefined) select(next);
}

document.addEventListener("click", (event) => {
  const { run, copy } = event.target.dataset ?? {};
  if (run !== undefined) select(run);
  if (copy !== undefined) navigator.clipboard?.writeText(copy).then(() => { event.target.textContent = "copied"; }, () => {});
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") select(null); });
element("before").addEventListener("click", () => step(-1));
element("after").addEventListener("click", () => step(1));
element("close").addEventListener("click", () => select(null));

// a page that is written anew while the search runs
setInterval(() => { if (element("again")?.checked) location.reload(); }, 30000);

tell(rows.length);
const asked = decodeURIComponent(location.hash.slice(1));
(async () => {
  for (const div of figures) {
    await draw(div);
    await new Promise((done) => requestAnimationFrame(done)); // the page answers between two figures
  }
  if (asked) select(asked);
  document.documentElement.dataset.drawn = "all";
})();
