// the run that is selected

let selected = null;

function select(run) {
  const before = selected;
  selected = run !== null && runs.has(run) ? run : null;
  for (const one of [before, selected].filter((name) => name !== null).map((name) => rowOf.get(name))) {
    one.tr.classList.toggle("selected", one.run === selected);
    hide(one);
  }
  element("selected").hidden = selected === null;
  document.body.classList.toggle("selecting", selected !== null);
  history.replaceState(null, "", selected === null ? location.pathname + location.search : `#${encodeURIComponent(selected)}`);
  if (selected !== null) say(selected);
  inTurn(mark);
}

function say(run) {
  const loss = get(run, "loss_nats"), shares = data.columns.filter((name) => name.endsWith("_share") && get(run, name) !== null);
  const parts = [loss === null ? get(run, "status") : `${loss.toFixed(4)} nats`, told(run) && `against dense: ${told(run)}`,
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

// what the reader has chosen outlives a new reading of the page, in this tab

const KEPT = `lpanas ${location.pathname}`;
const fields = ["filter", "status", "sublayers"];

function remember() {
  const chosen = { dark, scale, whole, sorted, fields: fields.map((id) => element(id).value) };
  try { sessionStorage.setItem(KEPT, JSON.stringify(chosen)); } catch { /* a browser that keeps nothing */ }
}

function restore() {
  let chosen = null;
  try { chosen = JSON.parse(sessionStorage.getItem(KEPT)); } catch { /* as above */ }
  if (chosen === null) return;
  dark = chosen.dark;
  shade();
  whole = chosen.whole;
  if (chosen.sorted && chosen.sorted[0] in at) sortBy(...chosen.sorted);
  fields.forEach((id, place) => { element(id).value = chosen.fields[place]; });
  if (whole || fields.some((id) => element(id).value)) filter();
  scaleTo(chosen.scale);
}

function selectAsked() {
  let asked = "";
  try { asked = decodeURIComponent(location.hash.slice(1)); } catch { /* no name of a run */ }
  if (runs.has(asked)) select(asked);
}

addEventListener("pagehide", remember);
addEventListener("hashchange", selectAsked);
setInterval(() => { if (element("again")?.checked) location.reload(); }, 30000); // a page that is written anew while the search runs

tell(rows.length);
restore();
selectAsked();
(async () => {
  for (const div of figures) {
    await draw(div);
    await frame();
  }
  document.documentElement.dataset.drawn = "all";
})();
