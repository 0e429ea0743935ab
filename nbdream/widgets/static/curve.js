// The live loss curve. All state is in the model's traits; text reaches the page by textContent only.
const SVG = "http://www.w3.org/2000/svg";
const W = 640, H = 240, L = 56, R = 12, T = 12, B = 30;

function add(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  if (text !== undefined) element.textContent = text;
  parent.appendChild(element);
  return element;
}

// Round numbers between low and high, at most `most` of them.
function ticks(low, high, most) {
  const size = 10 ** Math.floor(Math.log10((high - low) / most));
  for (const step of [1, 2, 5, 10, 20].map((factor) => size * factor)) {
    const first = Math.ceil(low / step), count = Math.floor(high / step) - first + 1;
    if (count <= most) return Array.from({ length: count }, (_, at) => (first + at) * step);
  }
  return [];
}

function draw(svg, series, looks) {
  svg.replaceChildren();
  const names = Object.keys(series).filter((name) => series[name].length);
  const points = names.flatMap((name) => series[name]);
  if (!points.length) {
    add(svg, "text", { x: W / 2, y: H / 2, "text-anchor": "middle", fill: "currentColor", "font-size": 11 }, "waiting for the first loss");
    return;
  }
  let y0 = Infinity, y1 = -Infinity, x1 = 1;
  for (const [x, y] of points) {
    y0 = Math.min(y0, y); y1 = Math.max(y1, y); x1 = Math.max(x1, x);
  }
  const pad = (y1 - y0) * 0.05 || Math.max(Math.abs(y1) * 0.05, 0.05);
  y0 -= pad; y1 += pad;
  const px = (x) => L + (x / x1) * (W - L - R);
  const py = (y) => T + ((y1 - y) / (y1 - y0)) * (H - T - B);
  for (const y of ticks(y0, y1, 5)) {
    add(svg, "line", { x1: L, x2: W - R, y1: py(y), y2: py(y), stroke: "currentColor", "stroke-opacity": 0.12 });
    add(svg, "text", { x: L - 6, y: py(y) + 4, "text-anchor": "end", "font-size": 11, fill: "currentColor" }, String(Number(y.toPrecision(4))));
  }
  for (const x of ticks(0, x1, 6).filter(Number.isInteger)) {
    add(svg, "text", { x: px(x), y: H - 10, "text-anchor": "middle", "font-size": 11, fill: "currentColor" }, x.toLocaleString("en"));
  }
  let labels = 0;
  for (const name of names) {
    const [label, colour, dashed] = Object.hasOwn(looks, name) ? looks[name] : [name, "#888", false];
    const path = series[name].map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" ");
    add(svg, "polyline", { points: path, fill: "none", stroke: colour, "stroke-width": 1.8, "stroke-linejoin": "round",
      ...(dashed && { "stroke-dasharray": "4 3" }) });
    const last = series[name][series[name].length - 1];
    add(svg, "circle", { cx: px(last[0]), cy: py(last[1]), r: 2.5, fill: colour });
    if (label) add(svg, "text", { x: W - R - 4, y: T + 12 + 15 * labels++, "text-anchor": "end", "font-size": 11, fill: colour },
      `${label} ${last[1].toPrecision(4)}`);
  }
}

function render({ model, el }) {
  const box = document.createElement("div");
  const bar = document.createElement("div");
  const title = document.createElement("strong");
  const line = document.createElement("span");
  const stop = document.createElement("button");
  const log = document.createElement("details");
  const summary = document.createElement("summary");
  const tail = document.createElement("pre");
  bar.style.cssText = "display:flex;gap:1em;align-items:baseline;flex-wrap:wrap";
  line.style.whiteSpace = "pre-line";
  tail.style.cssText = "max-height:12em;overflow:auto;font-size:.85em;white-space:pre-wrap";
  stop.textContent = "Stop";
  summary.textContent = "log";
  log.append(summary, tail);
  bar.append(title, line, stop);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  svg.style.cssText = "max-width:640px;width:100%";
  box.append(bar, svg, log);
  el.appendChild(box);

  let asked = 0;
  const show = () => {
    asked = 0;
    title.textContent = model.get("title");
    line.textContent = model.get("line");
    tail.textContent = model.get("tail");
    log.hidden = !model.get("tail");
    stop.hidden = !model.get("running");
    draw(svg, model.get("series"), model.get("looks"));
  };
  const changed = () => { if (!asked) asked = requestAnimationFrame(show); };
  stop.addEventListener("click", () => {
    stop.disabled = true;
    stop.textContent = "stopping…";
    model.send({ op: "stop" });
  });
  model.on("change", changed);
  show();
  return () => { if (asked) cancelAnimationFrame(asked); model.off("change", changed); };
}

export default { render };
