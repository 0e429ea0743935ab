// What comes from what: boxes in layers, each below those it was made from, in as many columns as there is room for. What others
// wrote reaches the page by textContent only.
//
// lineage(el, source) builds it in `el` and gives {update(source), down()}. `source` is
//   nodes       [{name, kind: rows|model|python|data, detail, title, cell, above: numbers of nodes before it, state?, reason?}]
//   left_out    how many earlier ones are not among them
//   has(cell)   whether a cell can be gone to; go(cell) goes there
// The arrows move along the lines and in a layer, Enter goes to the cell.

const HIGH = 42, ACROSS = 16, DOWN = 34; // pixels
const NARROW = 112, WIDE = 164, WIDEST = 240; // of a box: at least, at least where there is room, and at most

const STYLE = `
.nbd-lin { --t: var(--jp-ui-font-color1, #1f2328); --t2: var(--jp-ui-font-color2, #59636e); --b: var(--jp-border-color1, #afb8c1);
  --bg: var(--jp-layout-color1, #fff); --accent: var(--jp-brand-color1, #0969da); --good: var(--jp-success-color1, #388e3c);
  --warn: var(--jp-warn-color1, #f57c00); --bad: var(--jp-error-color1, #d32f2f);
  position: relative; overflow: auto; max-height: 560px; color: var(--t); font-family: var(--jp-ui-font-family, system-ui, sans-serif); font-size: 12px; line-height: 16px; }
@media (prefers-color-scheme: dark) { .nbd-lin { --t: var(--jp-ui-font-color1, #e6edf3); --t2: var(--jp-ui-font-color2, #9198a1);
  --b: var(--jp-border-color1, #656c76); --bg: var(--jp-layout-color1, #151b23); --accent: var(--jp-brand-color1, #4493f8); } }
.nbd-lin svg { position: absolute; inset: 0 auto auto 0; pointer-events: none; }
.nbd-lin path { fill: none; stroke: var(--t2); stroke-opacity: .6; stroke-width: 1.4; }
.nbd-lin ol { position: relative; margin: 0 !important; padding: 0 !important; list-style: none; }
.nbd-lin li { position: absolute; margin: 0; }
.nbd-lin button { box-sizing: border-box; width: 100%; height: ${HIGH}px; padding: 3px 8px 3px 9px; text-align: start; font: inherit; color: inherit; cursor: default;
  background: var(--bg); border: 1px solid var(--b); border-inline-start: 3px solid var(--kind, var(--b)); border-radius: 5px; }
.nbd-lin button.goes { cursor: pointer; } .nbd-lin button.goes:hover { border-color: var(--accent); }
.nbd-lin button:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.nbd-lin [data-kind=rows] { --kind: #2f86c9; } .nbd-lin [data-kind=model] { --kind: #d9730d; }
.nbd-lin [data-kind=python] button, .nbd-lin [data-kind=data] button { border-style: dashed; }
.nbd-lin b, .nbd-lin span { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.nbd-lin b { font-weight: 600; } .nbd-lin span { font-size: 11px; color: var(--t2); }
.nbd-lin [data-kind=python] span { font-family: var(--jp-code-font-family, ui-monospace, monospace); }
.nbd-lin b::after { content: ""; display: inline-block; width: 7px; height: 7px; margin-inline-start: 6px; border-radius: 50%; }
.nbd-lin [data-state=fresh] b::after { background: var(--good); } .nbd-lin [data-state=stale] b::after { background: var(--warn); }
.nbd-lin [data-state=running] b::after { background: var(--accent); } .nbd-lin [data-state=failed] b::after { background: var(--bad); }
.nbd-lin p { margin: 0 0 6px; color: var(--t2); }
`;

// The line and the column of each box, of which some stand `above` it. What hangs together stands together; what does not stands beside
// it, or below, as there is room.
export function layout(above, columns) {
  const places = above.map(() => [0, 0]);
  let top = 0, left = 0, below = 0;
  for (const part of partsOf(above)) {
    const number = new Map(part.map((box, at) => [box, at]));
    const found = layered(part.map((box) => above[box].map((at) => number.get(at))), columns);
    const [lines, width] = [0, 1].map((side) => 1 + Math.max(...found.map((place) => place[side])));
    if (left + width > columns) { top += below; left = 0; below = 0; }
    part.forEach((box, at) => { places[box] = [top + found[at][0], left + found[at][1]]; });
    left += width;
    below = Math.max(below, lines);
  }
  return places;
}

// The boxes that hang together, by their first.
function partsOf(above) {
  const first = above.map((_, box) => box);
  const root = (box) => { while (first[box] !== box) box = first[box]; return box; };
  above.forEach((sources, box) => sources.forEach((at) => {
    const one = root(at), other = root(box);
    first[Math.max(one, other)] = Math.min(one, other);
  }));
  const parts = new Map();
  above.forEach((_, box) => { const at = root(box); if (!parts.has(at)) parts.set(at, []); parts.get(at).push(box); });
  return [...parts.values()];
}

// Of boxes that hang together, each in a line below those that it comes from, and as near to them as there is room.
function layered(above, columns) {
  const layers = [], places = above.map(() => [0, 0]);
  above.forEach((sources) => layers.push(1 + Math.max(-1, ...sources.map((at) => layers[at]))));
  const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : 0);
  let line = 0;
  for (let layer = 0; layer <= Math.max(-1, ...layers); layer++) {
    const wanted = above.map((sources, box) => [mean(sources.map((at) => places[at][1])), box]).filter(([, box]) => layers[box] === layer);
    wanted.sort((one, other) => one[0] - other[0] || one[1] - other[1]);
    for (let start = 0; start < wanted.length; start += columns) {
      const part = wanted.slice(start, start + columns);
      let column = 0;
      part.forEach(([middle, box], done) => {
        column = Math.min(Math.max(column, Math.floor(middle + 0.5)), columns - part.length + done);
        places[box] = [line, column++];
      });
      line++;
    }
  }
  return places;
}

// How many columns are used where there is room for many.
const widest = (above) => Math.max(1, ...layout(above, 6).map(([, column]) => column + 1));

// The way from a box to one below it: straight into the next line, else down between the columns.
function edge(above, below, wide) {
  const x0 = above[1] * (wide + ACROSS) + wide / 2, y0 = above[0] * (HIGH + DOWN) + HIGH, x1 = below[1] * (wide + ACROSS) + wide / 2, y1 = below[0] * (HIGH + DOWN);
  const half = DOWN / 2;
  if (below[0] === above[0] + 1) return `M${x0},${y0}C${x0},${y0 + half} ${x1},${y1 - half} ${x1},${y1}`;
  const left = x0 < x1 || (x0 === x1 && below[1] > 0), aside = x1 + ((left ? -1 : 1) * (wide + ACROSS)) / 2, into = y0 + DOWN, out = y1 - DOWN;
  return `M${x0},${y0}C${x0},${y0 + half} ${aside},${into - half} ${aside},${into}L${aside},${out}C${aside},${out + half} ${x1},${y1 - half} ${x1},${y1}`;
}

function add(parent, name, attributes = {}, text) {
  const element = parent instanceof SVGElement || name === "svg" ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

export function lineage(el, source) {
  let nodes = [], places = [], columns = 0, wide = WIDE, at = 0, known = "";

  const root = add(el, "div", { class: "nbd-lin", "data-lm-suppress-shortcuts": "true" });
  add(root, "style", {}, STYLE);
  const more = add(root, "p"), svg = add(root, "svg", { "aria-hidden": "true" }), list = add(root, "ol", { "aria-label": "lineage" });

  function told(node) {
    const from = node.above.map((number) => nodes[number].name);
    const parts = [node.name, node.title || node.detail, from.length ? `made from ${from.join(", ")}` : "", node.state && node.state !== "fresh" ? node.state : "", node.reason || ""];
    return parts.filter(Boolean).join("; ");
  }

  function draw() {
    const focused = list.contains(document.activeElement);
    list.replaceChildren(); svg.replaceChildren();
    more.hidden = !source.left_out;
    more.textContent = `${source.left_out} earlier ones are not drawn`;
    places = layout(nodes.map(({ above }) => above), columns);
    const lines = 1 + Math.max(-1, ...places.map(([line]) => line));
    list.style.height = `${Math.max(0, lines * (HIGH + DOWN) - DOWN + 4)}px`;
    svg.style.top = `${list.offsetTop}px`;
    svg.setAttribute("width", columns * (wide + ACROSS));
    svg.setAttribute("height", lines * (HIGH + DOWN));
    nodes.forEach((node, number) => {
      for (const above of node.above) add(svg, "path", { d: edge(places[above], places[number], wide) });
      const item = add(list, "li", { "data-kind": node.kind, ...(node.state ? { "data-state": node.state } : {}) });
      item.style.cssText = `left:${places[number][1] * (wide + ACROSS)}px;top:${places[number][0] * (HIGH + DOWN)}px;width:${wide}px`;
      const goes = Boolean(node.cell && source.has?.(node.cell));
      const button = add(item, "button", { type: "button", tabindex: number === at ? "0" : "-1", "aria-label": told(node) + (goes ? "; go to its cell" : ""), title: told(node) });
      button.classList.toggle("goes", goes);
      add(button, "b", { dir: "auto" }, node.name);
      add(button, "span", { dir: "auto" }, node.detail);
      button.addEventListener("click", () => { at = number; if (goes) source.go(node.cell); });
    });
    if (focused) focus(at);
  }

  function focus(number) {
    const buttons = list.querySelectorAll("button");
    buttons[at]?.setAttribute("tabindex", "-1");
    at = Math.max(0, Math.min(nodes.length - 1, number));
    buttons[at]?.setAttribute("tabindex", "0");
    buttons[at]?.focus();
  }

  list.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [line, column] = places[at] ?? [0, 0];
    const beside = (by) => places.findIndex((place) => place[0] === line && place[1] === column + by);
    const found = {
      ArrowUp: () => nodes[at].above[0] ?? -1, ArrowDown: () => nodes.findIndex(({ above }) => above.includes(at)),
      ArrowLeft: () => beside(-1), ArrowRight: () => beside(1), Home: () => 0, End: () => nodes.length - 1,
    }[event.key];
    if (!found) return;
    if (found() >= 0) focus(found());
    event.preventDefault();
    event.stopPropagation();
  });

  // As many columns as there is room for, and no more than any layer has.
  function fit() {
    const room = el.clientWidth || 4 * (WIDE + ACROSS);
    const fitting = Math.max(1, Math.min(6, Math.floor((room + ACROSS) / ((room < 3 * WIDE ? NARROW : WIDE) + ACROSS))));
    const most = Math.min(fitting, widest(nodes.map(({ above }) => above)));
    const width = Math.min(WIDEST, Math.floor((room - ACROSS) / most) - ACROSS);
    if (most !== columns || Math.abs(width - wide) > 1) { columns = most; wide = width; return true; }
    return false;
  }

  function update(found) {
    source = found;
    const now = JSON.stringify([found.nodes, found.nodes.map(({ cell }) => Boolean(cell && found.has?.(cell)))]);
    if (now === known) return;
    known = now;
    nodes = found.nodes;
    at = Math.min(at, Math.max(0, nodes.length - 1));
    fit();
    draw();
  }

  const size = new ResizeObserver(() => { if (fit()) draw(); });
  size.observe(el);
  update(source);
  return { update, down: () => { size.disconnect(); root.remove(); } };
}
