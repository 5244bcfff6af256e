// The figures of a search's page: drawn, with what is said of each run, marks on the one that is selected, the loss in other units.
// what is written where the pointer is

// better, worse or tied; nothing where the noise is not known
const told = (run) => (get(run, "against_dense") === "unknown" ? "" : get(run, "against_dense"));

function words(run) {
  if (!runs.has(run)) return escaped(run);
  const arm = get(run, "arm"), delta = get(run, "delta_nats");
  const against = delta === null || arm === "dense" ? "" : `<br>${delta >= 0 ? "+" : "−"}${Math.abs(delta).toFixed(4)} nats against dense ${escaped(told(run))}`;
  const perplexity = get(run, "perplexity");
  return `<b>${escaped(run)}</b> ${escaped(arm)}<br>${escaped(get(run, "placement"))}, d_ff ${get(run, "d_ff")}${against}` +
    (perplexity === null ? "" : `<br>perplexity ${perplexity.toPrecision(5)}`);
}

// figures

const SELECTED = "selected";

// whether its points stand for runs
function stands(trace) { return Boolean(trace.hovertemplate?.startsWith("%{text}")); }

function axesOf(trace) { return `${trace.xaxis ?? "x"} ${trace.yaxis ?? "y"}`; }

function drawn(name) {
  const { data: traces, layout } = drawings[name];
  const axes = new Set();
  for (const trace of traces) {
    if (stands(trace)) {
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
    if (isFront(div)) div.on("plotly_relayout", (change) => { if (!("yaxis.tickvals" in change)) rescale(div); });
    for (const change of [mark, dim, rescale]) change(div); // what was asked for while it was not there yet
  });
}

const isFront = (div) => div.id.startsWith("front_");

// a change of every figure that is there, those in view first, and the page answers between two of them
const turns = new Map();
async function inTurn(change) {
  const turn = (turns.get(change) ?? 0) + 1, root = document.documentElement;
  turns.set(change, turn);
  root.dataset.settled = "no";
  const away = (div) => Math.abs(div.getBoundingClientRect().top + div.offsetHeight / 2 - innerHeight / 2);
  for (const div of [...figures].sort((a, b) => away(a) - away(b))) {
    if (turns.get(change) !== turn) return;
    if (div.data && change(div)) await frame();
  }
  turns.delete(change);
  if (!turns.size) root.dataset.settled = "yes";
}

const frame = () => new Promise((done) => requestAnimationFrame(done));

// where each run stands in a figure: [trace, point] of each of its points
function standing(div) {
  if (div.standing) return div.standing;
  div.standing = new Map();
  div.data.forEach((trace, number) => {
    if (!stands(trace)) return;
    trace.customdata.forEach((run, place) => {
      if (!div.standing.has(run)) div.standing.set(run, []);
      div.standing.get(run).push([number, place]);
    });
  });
  return div.standing;
}

// rings and a line over the run that is selected; whether anything had to be drawn
function mark(div) {
  const marks = [...div.data.keys()].filter((number) => div.data[number].meta === SELECTED);
  const found = selected === null ? [] : standing(div).get(selected) ?? [];
  if (!marks.length || (!found.length && !div.marked)) return false;
  div.marked = found.length > 0;
  const over = marks.map((number) => places(div.data, axesOf(div.data[number]), found));
  Plotly.restyle(div, { x: over.map(([x]) => x), y: over.map(([, y]) => y) }, marks);
  return true;
}

function places(traces, axes, found) {
  const x = [], y = [];
  found.forEach(([number, place], n) => {
    const trace = traces[number];
    if (axesOf(trace) !== axes) return;
    if (trace.type === "bar") {
      x.push(trace.base[place], trace.base[place] + trace.x[place], null);
      y.push(trace.y[place], trace.y[place], null);
      return;
    }
    const [next, after] = found[n + 1] ?? [];
    x.push(trace.x[place]);
    y.push(trace.y[place]);
    if (!trace.mode.includes("lines") || next !== number || after !== place + 1) {
      x.push(null);
      y.push(null);
    }
  });
  return [x, y];
}

// what the table's filter leaves out is pale; whether anything had to be drawn
function dim(div) {
  const some = rows.some((one) => !one.shown);
  const numbers = [...div.data.keys()].filter((number) => stands(div.data[number]) && String(div.data[number].mode).startsWith("markers"));
  if (!numbers.length || (!some && !div.dimmed)) return false;
  div.dimmed = some;
  const kept = new Set(rows.filter((one) => one.shown).map((one) => one.run));
  const chosen = numbers.map((number) => {
    const its = div.data[number].customdata;
    return some ? [...its.keys()].filter((place) => kept.has(its[place])) : null;
  });
  Plotly.restyle(div, { selectedpoints: chosen, "unselected.marker.opacity": 0.08 }, numbers);
  return true;
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

// round numbers of a unit, about as many as asked for, evenly spread over nats
function ticksOf(unit, low, high, count = 8) {
  const ticks = new Set(), apart = (high - low) / count;
  for (let n = 0; n <= count; n++) {
    const here = unit.to(low + n * apart), step = unit.to(low + (n + 1) * apart) - here;
    const power = 10 ** Math.floor(Math.log10(step)), round = [5, 2, 1].map((one) => one * power).find((one) => one <= step);
    const tick = Number((Math.round(here / round) * round).toPrecision(12));
    if (tick > 0 && unit.from(tick) >= low && unit.from(tick) <= high) ticks.add(tick);
  }
  return [...ticks];
}

function rescale(div) {
  if (!isFront(div) || (scale === "loss_nats" && !div.rescaled)) return false;
  const unit = scales[scale];
  div.rescaled = Boolean(unit);
  if (unit) {
    const ticks = ticksOf(unit, ...div._fullLayout.yaxis.range);
    Plotly.relayout(div, { "yaxis.tickmode": "array", "yaxis.tickvals": ticks.map(unit.from), "yaxis.ticktext": ticks.map(String), "yaxis.title.text": unit.title });
  } else {
    Plotly.relayout(div, { "yaxis.tickvals": null, "yaxis.ticktext": null, "yaxis.tickmode": "auto", "yaxis.title.text": titles[div.id] });
  }
  return true;
}

function scaleTo(name) {
  scale = scales[name] ? name : "loss_nats";
  for (const button of document.querySelectorAll("[data-scale]")) button.setAttribute("aria-pressed", String(button.dataset.scale === scale));
  inTurn(rescale);
}

for (const button of document.querySelectorAll("[data-scale]")) {
  button.disabled = button.dataset.scale !== "loss_nats" && !scales[button.dataset.scale];
  button.addEventListener("click", () => scaleTo(button.dataset.scale));
}
