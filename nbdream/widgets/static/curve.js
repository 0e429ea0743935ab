// Curves over steps: of a training while it runs, and of finished ones. Text reaches the page by textContent only.
//
// curve(el, source) builds it in `el` and gives {update(source), down()}. `source` is
//   name     what the picture is called
//   note     a line that stands below
//   panels   [{title, curves: [{label, colour, dashed, points}]}]: points are [[step, value]], or as text "step,value step,value";
//            a curve without a label is told by its colour
// Dragging zooms into steps, a double click shows all again; so do the keys + - 0, and the arrows move from value to value.

import { host } from "./host.js";

const SVG = "http://www.w3.org/2000/svg";
const W = 640, H = 240, L = 56, R = 20, T = 12, B = 30;
const SMOOTH = [0, 0.6, 0.9, 0.97]; // what the slider stands for

const STYLE = `
.nbd-curve { --t: var(--jp-content-font-color1, #1f2328); --t2: var(--jp-content-font-color2, #59636e); --b: var(--jp-border-color2, #d1d9e0);
  --bg: var(--jp-layout-color1, #fff); --accent: var(--jp-brand-color1, #0969da);
  color: var(--t); font-family: var(--jp-content-font-family, system-ui, sans-serif); font-size: 13px; line-height: 20px; max-width: 720px; position: relative; }
@media (prefers-color-scheme: dark) { .nbd-curve { --t: var(--jp-content-font-color1, #e6edf3); --t2: var(--jp-content-font-color2, #9198a1);
  --b: var(--jp-border-color2, #3d444d); --bg: var(--jp-layout-color1, #151b23); --accent: var(--jp-brand-color1, #4493f8); } }
.nbd-curve-bar { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: center; padding: 2px 0 4px; }
.nbd-curve-bar > :empty { display: none; }
.nbd-curve button { font: inherit; color: var(--t2); background: none; border: 0; border-bottom: 2px solid transparent; padding: 0 2px; margin-inline-end: 10px; cursor: pointer; }
.nbd-curve button[aria-selected=true] { color: var(--t); border-color: var(--accent); }
.nbd-curve label { color: var(--t2); display: inline-flex; gap: 6px; align-items: center; margin-inline-start: auto; }
.nbd-curve input { width: 72px; accent-color: var(--accent); }
.nbd-curve :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.nbd-curve svg:focus:not(:focus-visible) { outline: none; }
.nbd-curve svg { display: block; width: 100%; height: auto; cursor: crosshair; touch-action: pan-y; user-select: none; }
.nbd-curve-key { display: flex; flex-wrap: wrap; gap: 0 16px; padding-inline-start: 8.5%; font-variant-numeric: tabular-nums; min-height: 20px; }
.nbd-curve-key i { display: inline-block; width: 18px; border-top: 3px solid; margin-inline-end: 6px; vertical-align: middle; }
.nbd-curve-key i.dashed { border-top-style: dashed; }
.nbd-curve-note { color: var(--t2); overflow-wrap: anywhere; }
.nbd-curve-read { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.nbd-curve [hidden] { display: none !important; }
`;

// --- numbers ------------------------------------------------------------------------------------------------------------

// Round numbers between low and high, at most `most` of them.
export function ticks(low, high, most) {
  const size = 10 ** Math.floor(Math.log10((high - low) / most));
  for (const step of [1, 2, 5, 10, 20].map((factor) => size * factor)) {
    const first = Math.ceil(low / step), count = Math.floor(high / step) - first + 1;
    if (count <= most) return Array.from({ length: count }, (_, at) => (first + at) * step);
  }
  return [];
}

// A moving average whose weights fall by `weight` a point, without the pull towards zero at its beginning.
export function smoothed(points, weight) {
  if (!weight) return points;
  let sum = 0, mass = 0;
  return points.map(([x, y]) => {
    sum = sum * weight + y * (1 - weight);
    mass = mass * weight + (1 - weight);
    return [x, sum / mass];
  });
}

// The point nearest to step x; null where there is none.
export function nearest(points, x) {
  let low = 0, high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle + 1; else high = middle;
  }
  const found = points[low], before = points[low - 1];
  return before && x - before[0] <= found[0] - x ? before : (found ?? null);
}

// The points that are seen between two steps, with those that lines come from and go to outside.
export function within(points, [from, to]) {
  const first = points.findIndex(([x]) => x >= from), last = points.findLastIndex(([x]) => x <= to);
  if (first < 0 || last < 0) return [];
  return points.slice(Math.max(0, first - 1), last + 2);
}

// Panels with points as numbers.
export function parsed(panels) {
  const numbers = (points) => (typeof points === "string" ? points.split(" ").filter(Boolean).map((point) => point.split(",").map(Number)) : points);
  return panels.map((panel) => ({ ...panel, curves: panel.curves.map((found) => ({ ...found, points: numbers(found.points) })) }));
}

const shown = (value) => String(Number(value.toPrecision(4)));
const stepOf = (step) => `step ${step.toLocaleString("en")}`;

// --- the picture --------------------------------------------------------------------------------------------------------

function add(parent, name, attributes = {}, text) {
  const element = parent instanceof SVGElement || name === "svg" ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

export function curve(el, source) {
  let panels = [], panel = 0, weight = 0, zoom = null, cursor = null, drag = null, scale = null, frame = 0;

  const root = add(el, "div", { class: "nbd-curve", "data-lm-suppress-shortcuts": "true" });
  add(root, "style", {}, STYLE);
  const bar = add(root, "div", { class: "nbd-curve-bar" });
  const tabs = add(bar, "div", { role: "tablist", "aria-label": "what was measured" });
  const smooth = add(bar, "label", {}, "Smoothing");
  const slider = add(smooth, "input", { type: "range", min: 0, max: SMOOTH.length - 1, step: 1, value: 0, "aria-label": "Smoothing" });
  const svg = add(root, "svg", { viewBox: `0 0 ${W} ${H}`, tabindex: "0", role: "application", "aria-roledescription": "curves" });
  const key = add(root, "div", { class: "nbd-curve-key" });
  const note = add(root, "div", { class: "nbd-curve-note", dir: "auto" });
  const read = add(root, "div", { class: "nbd-curve-read", "aria-live": "polite" });

  const curves = () => (panels[panel]?.curves ?? []).filter((found) => found.points.length);

  function drawTabs() {
    tabs.replaceChildren();
    if (panels.length < 2) return;
    panels.forEach(({ title }, at) => {
      const tab = add(tabs, "button", { type: "button", role: "tab", "aria-selected": String(at === panel), tabindex: at === panel ? "0" : "-1" }, title);
      tab.addEventListener("click", () => { choose(at); });
    });
  }

  function choose(at) {
    panel = (at + panels.length) % panels.length;
    cursor = null;
    drawTabs();
    draw();
  }

  // All steps, or those that are zoomed into; the values that are seen there.
  function scaleOf(lines) {
    const every = lines.flatMap(({ points }) => points);
    const last = Math.max(1, ...every.map(([x]) => x)), whole = [Math.min(0, ...every.map(([x]) => x)), last];
    const [x0, x1] = zoom ?? whole;
    const seen = lines.flatMap((line) => within(line.points, [x0, x1]).concat(within(line.still, [x0, x1])));
    const values = (seen.length ? seen : every).map(([, y]) => y);
    let y0 = Math.min(...values), y1 = Math.max(...values);
    const pad = (y1 - y0) * 0.05 || Math.abs(y1) * 0.05 || 0.05;
    y0 -= pad; y1 += pad;
    return {
      whole, x0, x1, y0, y1,
      px: (x) => L + ((x - x0) / (x1 - x0)) * (W - L - R),
      py: (y) => T + ((y1 - y) / (y1 - y0)) * (H - T - B),
      step: (pixel) => Math.max(x0, Math.min(x1, x0 + ((pixel - L) / (W - L - R)) * (x1 - x0))),
    };
  }

  function paint() {
    svg.replaceChildren();
    const lines = curves().map((line) => ({ ...line, still: line.points, points: smoothed(line.points, weight) }));
    svg.setAttribute("aria-label", `${source.name} ${panels[panel]?.title ?? ""}: plus and minus zoom, 0 shows all, arrows tell values`);
    smooth.hidden = !lines.some(({ points }) => points.length > 8);
    if (!lines.length) {
      add(svg, "text", { x: W / 2, y: H / 2, "text-anchor": "middle", fill: "currentColor", "font-size": 11 }, "waiting for the first loss");
      scale = null;
      drawKey([]);
      return;
    }
    scale = scaleOf(lines);
    const { px, py, x0, x1, y0, y1 } = scale;
    for (const y of ticks(y0, y1, 5)) {
      add(svg, "line", { x1: L, x2: W - R, y1: py(y), y2: py(y), stroke: "currentColor", "stroke-opacity": 0.12 });
      add(svg, "text", { x: L - 6, y: py(y) + 4, "text-anchor": "end", "font-size": 11, fill: "currentColor" }, shown(y));
    }
    for (const x of ticks(x0, x1, 6).filter((x) => Math.abs(x - Math.round(x)) < 1e-9)) {
      add(svg, "text", { x: px(x), y: H - 10, "text-anchor": "middle", "font-size": 11, fill: "currentColor" }, Math.round(x).toLocaleString("en"));
    }
    const inside = add(svg, "svg", { x: L, y: 0, width: W - L - R, height: H - B, viewBox: `${L} 0 ${W - L - R} ${H - B}` });
    for (const { colour, dashed, points, still } of lines) {
      for (const [all, opacity] of weight ? [[still, 0.25], [points, 1]] : [[points, 1]]) {
        const path = within(all, [x0, x1]).map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" ");
        add(inside, "polyline", { points: path, fill: "none", stroke: colour, "stroke-width": 1.8, "stroke-linejoin": "round", "stroke-opacity": opacity,
          ...(dashed && { "stroke-dasharray": "4 3" }) });
      }
      const last = points[points.length - 1];
      if (last[0] >= x0 && last[0] <= x1) add(svg, "circle", { cx: px(last[0]), cy: py(last[1]), r: 2.5, fill: colour });
    }
    if (drag) {
      const [from, to] = drag.map(px).sort((a, b) => a - b);
      add(svg, "rect", { x: from, y: T, width: to - from, height: H - T - B, fill: "currentColor", "fill-opacity": 0.12 });
    }
    if (cursor !== null && cursor >= x0 && cursor <= x1) {
      add(svg, "line", { x1: px(cursor), x2: px(cursor), y1: T, y2: H - B, stroke: "currentColor", "stroke-opacity": 0.5 });
      for (const { points, colour } of lines) {
        const [x, y] = nearest(points, cursor);
        if (x >= x0 && x <= x1) add(svg, "circle", { cx: px(x), cy: py(y), r: 4, fill: colour });
      }
    }
    drawKey(lines);
  }

  // The names of the curves; with a cursor, their values there, else the last ones.
  function drawKey(lines) {
    key.replaceChildren();
    if (cursor !== null && lines.length) add(key, "strong", {}, stepOf(cursor));
    for (const { label, colour, dashed, points } of lines) {
      if (!label && cursor === null) continue;
      const [x, y] = cursor === null ? points[points.length - 1] : nearest(points, cursor);
      const entry = add(key, "span", { dir: "auto" }), line = add(entry, "i", dashed ? { class: "dashed" } : {});
      line.style.color = colour;
      const elsewhere = cursor !== null && x !== cursor ? ` at ${stepOf(x)}` : "";
      entry.append(`${label || "validation"} ${shown(y)}${elsewhere}`);
    }
  }

  function draw() { if (!frame) frame = requestAnimationFrame(() => { frame = 0; paint(); }); }

  // --- what a person does ---

  function zoomTo(from, to) {
    if (!scale) return;
    const [low, high] = scale.whole, size = Math.min(high - low, Math.max(1, to - from));
    const start = Math.max(low, Math.min(high - size, from));
    zoom = size >= high - low ? null : [start, start + size];
    read.textContent = zoom ? `steps ${Math.round(zoom[0]).toLocaleString("en")} to ${Math.round(zoom[1]).toLocaleString("en")}` : "all steps";
    draw();
  }

  function zoomBy(factor) {
    if (!scale) return;
    const size = (scale.x1 - scale.x0) * factor, middle = cursor ?? (scale.x0 + scale.x1) / 2;
    zoomTo(middle - size / 2, middle + size / 2);
  }

  // Move the cursor to another step at which something was measured.
  function move(by) {
    const steps = [...new Set(curves().flatMap(({ points }) => points.map(([x]) => x)))].sort((a, b) => a - b);
    if (!steps.length || !scale) return;
    const at = cursor === null ? (by < 0 ? steps.length : -1) : steps.findIndex((x) => x >= cursor);
    cursor = steps[Math.max(0, Math.min(steps.length - 1, at + by))];
    if (zoom && (cursor < zoom[0] || cursor > zoom[1])) zoomTo(cursor - (zoom[1] - zoom[0]) / 2, cursor + (zoom[1] - zoom[0]) / 2);
    paint();
    read.textContent = key.innerText.replace(/\s+/g, " ");
  }

  const stepAt = (event) => {
    const box = svg.getBoundingClientRect();
    return scale.step(((event.clientX - box.left) / box.width) * W);
  };
  svg.addEventListener("pointerdown", (event) => {
    if (!scale || event.button) return;
    drag = [stepAt(event), stepAt(event)];
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (!scale) return;
    const found = curves().map(({ points }) => nearest(points, stepAt(event))).sort((a, b) => Math.abs(a[0] - stepAt(event)) - Math.abs(b[0] - stepAt(event)));
    cursor = found[0]?.[0] ?? null;
    if (drag) drag[1] = stepAt(event);
    draw();
  });
  svg.addEventListener("pointerup", () => {
    const wide = drag && Math.abs(scale.px(drag[1]) - scale.px(drag[0])) > 6, [from, to] = (drag ?? []).sort((a, b) => a - b);
    drag = null;
    if (wide) zoomTo(from, to); else draw();
  });
  svg.addEventListener("pointercancel", () => { drag = null; draw(); });
  svg.addEventListener("pointerleave", () => { if (!drag) { cursor = null; draw(); } });
  svg.addEventListener("dblclick", () => zoomTo(-Infinity, Infinity));
  svg.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const does = { "+": () => zoomBy(0.5), "=": () => zoomBy(0.5), "-": () => zoomBy(2), 0: () => zoomTo(-Infinity, Infinity), ArrowLeft: () => move(-1),
      ArrowRight: () => move(1), Home: () => move(-1e9), End: () => move(1e9), Escape: () => { cursor = null; draw(); } }[event.key];
    if (!does) return;
    does();
    event.preventDefault();
    event.stopPropagation();
  });
  tabs.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    choose(panel + by);
    tabs.children[panel].focus();
    event.preventDefault();
    event.stopPropagation();
  });
  slider.addEventListener("input", () => {
    weight = SMOOTH[slider.value];
    slider.setAttribute("aria-valuetext", weight ? String(weight) : "none");
    draw();
  });

  function update(found) {
    panels = parsed(found.panels);
    panel = Math.min(panel, Math.max(0, panels.length - 1));
    note.textContent = found.note ?? "";
    note.hidden = !found.note;
    if (tabs.children.length !== (panels.length < 2 ? 0 : panels.length)) drawTabs();
    draw();
  }
  update(source);
  return { update, down: () => { cancelAnimationFrame(frame); root.remove(); } };
}

// --- while it grows -----------------------------------------------------------------------------------------------------

export default host((el, model) => {
  const bar = document.createElement("div"), title = document.createElement("strong"), line = document.createElement("span");
  const stop = document.createElement("button"), log = document.createElement("details"), tail = document.createElement("pre");
  const place = document.createElement("div"), summary = document.createElement("summary");
  bar.style.cssText = "display:flex;gap:1em;align-items:baseline;flex-wrap:wrap";
  line.style.whiteSpace = "pre-line";
  tail.style.cssText = "max-height:12em;overflow:auto;font-size:.85em;white-space:pre-wrap";
  stop.textContent = "Stop";
  summary.textContent = "log";
  log.append(summary, tail);
  bar.append(title, line, stop);
  el.append(bar, place, log);

  const told = () => {
    const looks = model.get("looks");
    const curves = Object.entries(model.get("series")).map(([name, points]) => {
      const [label, colour, dashed] = Object.hasOwn(looks, name) ? looks[name] : [name, "#888", false];
      return { label, colour, dashed, points };
    });
    return { name: model.get("title"), panels: [{ title: "loss", curves }] };
  };
  const picture = curve(place, told());
  let asked = 0;
  const show = () => {
    asked = 0;
    title.textContent = model.get("title");
    line.textContent = model.get("line");
    tail.textContent = model.get("tail");
    log.hidden = !model.get("tail");
    stop.hidden = !model.get("running");
    picture.update(told());
  };
  const changed = () => { if (!asked) asked = requestAnimationFrame(show); };
  stop.addEventListener("click", () => {
    stop.disabled = true;
    stop.textContent = "stopping…";
    model.send({ op: "stop" });
  });
  model.on("change", changed);
  show();
  return () => { if (asked) cancelAnimationFrame(asked); model.off("change", changed); picture.down(); };
});
