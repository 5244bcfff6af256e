// The figures of a search's page: drawn, with what is said of each run, marks on the one that is selected, the loss in other units.
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
