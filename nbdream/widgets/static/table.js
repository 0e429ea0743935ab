// A table of any number of rows: it holds the rows that are seen, and asks for others as they come into view.
// Whatever a model wrote reaches the page by textContent only.
//
// table(el, source) builds it in `el` and gives the function that takes it down. `source` is
//   first            the first page: {columns: [{name, type, beside?}], rows: [[cell]], numbers?, total, failures}
//   note             a line that stands below
//   changed          whether the first page is that of the rows in which columns that stand side by side differ
//   page(request)    a promise of a page; request: {start, count, columns: names or null for all, sort: [{column, reverse}], search,
//                    filter: {column: text}, changed, failures}
//   value(request)   a promise of one whole value {text, length, parts?}; request: {row, column, failures}
// Without `page` there is the first page and nothing to ask for. A cell is null, a text, {text, length} of a cut one, or
// {parts: [[text, differs]]}. An answer {error} is said, and what is shown stays.

import { host } from "./host.js";

const PAGE = 50; // rows that are asked for at once
const HIGHEST = 8e6; // pixels that every browser can scroll; a longer table is scrolled by fractions
const LINE = 20, PAD = 9, HEAD = 30, TALLEST = 460;
const LONG = 36, LEAST = 22; // characters beyond which a column is set as text that folds, and the fewest that it is wide

const STYLE = `
.nbd-table { --t: var(--jp-content-font-color1, #1f2328); --t2: var(--jp-content-font-color2, #59636e); --b: var(--jp-border-color2, #d1d9e0);
  --bg: var(--jp-layout-color0, #fff); --bg2: var(--jp-layout-color1, #f6f8fa); --row: var(--jp-rendermime-table-row-background, #f6f8fa);
  --accent: var(--jp-brand-color1, #0969da); --bad: var(--jp-error-color1, #cf222e); --less: rgba(248, 81, 73, .22); --more: rgba(46, 160, 67, .22);
  color: var(--t); font-family: var(--jp-content-font-family, system-ui, sans-serif); font-size: 13px; line-height: ${LINE}px; max-width: 100%; }
@media (prefers-color-scheme: dark) { .nbd-table { --t: var(--jp-content-font-color1, #e6edf3); --t2: var(--jp-content-font-color2, #9198a1);
  --b: var(--jp-border-color2, #3d444d); --bg: var(--jp-layout-color0, #0d1117); --bg2: var(--jp-layout-color1, #151b23);
  --row: var(--jp-rendermime-table-row-background, #151b23); --accent: var(--jp-brand-color1, #4493f8); } }
.nbd-table * { box-sizing: border-box; }
.nbd-bar { display: flex; flex-wrap: wrap; gap: 6px 12px; align-items: center; padding: 2px 0 6px; }
.nbd-table input[type=search] { font: inherit; line-height: 18px; color: var(--t); background: var(--bg); border: 1px solid var(--b); border-radius: 4px; padding: 2px 6px; min-width: 0; }
.nbd-table input[type=search]::placeholder { color: var(--t2); opacity: .8; }
.nbd-table [aria-invalid=true] { border-color: var(--bad) !important; }
.nbd-table :focus-visible { outline: 2px solid var(--accent); outline-offset: -1px; }
.nbd-table button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; text-align: inherit; }
.nbd-tabs:empty { display: none; } .nbd-tabs button { padding: 1px 10px; border: 1px solid var(--b); }
.nbd-tabs button:first-child { border-radius: 4px 0 0 4px; border-right: 0; } .nbd-tabs button:last-child { border-radius: 0 4px 4px 0; }
.nbd-tabs [aria-selected=true] { background: var(--accent); border-color: var(--accent); color: var(--jp-ui-inverse-font-color1, #fff); }
.nbd-said { color: var(--t2); font-variant-numeric: tabular-nums; } .nbd-said.nbd-wrong { color: var(--bad); }
.nbd-view { position: relative; overflow: auto; border: 1px solid var(--b); border-radius: 4px; background: var(--bg); resize: vertical; }
.nbd-pane { position: sticky; top: 0; overflow: hidden; }
.nbd-table table { border-collapse: separate; border-spacing: 0; table-layout: fixed; margin: 0; font-size: inherit; color: inherit; }
.nbd-table thead { position: relative; z-index: 1; }
.nbd-table table th { height: ${HEAD}px; padding: 0 8px; text-align: start; font-weight: 600; background: var(--bg2); border-bottom: 1px solid var(--b); white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.nbd-table th button { font-weight: 600; max-width: 100%; overflow: hidden; text-overflow: ellipsis; }
.nbd-table th i { color: var(--accent); font-style: normal; } .nbd-table th input[type=search] { width: 100%; font-weight: 400; }
.nbd-table tbody tr { background: var(--bg); } .nbd-table tbody tr.odd { background: var(--row); }
.nbd-table tbody tr:hover, .nbd-view:focus tbody tr.at { background: var(--jp-rendermime-table-row-hover-background, rgba(9, 105, 218, .1)); }
.nbd-table table td { padding: 4px 8px; vertical-align: top; border: 0; border-bottom: 1px solid var(--b); text-align: start; max-width: none; white-space: normal; }
.nbd-view:focus-visible td.at { box-shadow: inset 0 0 0 2px var(--accent); }
.nbd-cell { white-space: pre-wrap; overflow-wrap: anywhere; overflow: hidden; text-align: start; }
tr:not(.open) > td > .nbd-cell { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: var(--lines); max-height: calc(var(--lines) * ${LINE}px); }
tr.open > td > .nbd-cell { max-height: 320px; overflow: auto; }
.nbd-number { text-align: end; font-variant-numeric: tabular-nums; white-space: nowrap !important; text-overflow: ellipsis; }
.nbd-none, .nbd-more, .nbd-nr { color: var(--t2); } .nbd-more { font-size: 12px; white-space: nowrap; }
.nbd-cell del, .nbd-cell ins { text-decoration: none; border-radius: 2px; color: inherit; }
.nbd-cell del { background: var(--less); } .nbd-cell ins { background: var(--more); }
.nbd-busy tbody { opacity: .55; } .nbd-note { color: var(--t2); padding-top: 4px; }
`;

let made = 0; // tables on the page, for the ids that a screen reader follows

function add(parent, name, properties = {}, text) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

const isNumber = (type) => /^(u?int|float|double|half|decimal)/.test(type);
const count = (number) => number.toLocaleString("en");
const rowsOf = (number) => `${count(number)} row${number === 1 ? "" : "s"}`;
const lengthOf = (cell) => cell?.length ?? cell?.parts?.reduce((sum, [text]) => sum + text.length, 0) ?? 1;

export function table(el, source) {
  const id = `nbd-${++made}`, live = Boolean(source.page);
  const ask = { sort: [], search: "", filter: {}, changed: Boolean(source.changed), failures: false }; // what is asked for
  let answered = { ...ask }; // what is shown
  let era = 0, columns = [], total = 0, lines = 1, height = LINE + PAD, y = 0, at = { row: 0, column: 0 }, frame = 0, placed = 0, headed = "", summary = "", timer = 0;
  const pages = new Map(), asked = new Set(), opened = new Map(), values = new Map(), shown = new Map();

  // --- the parts ---

  const root = add(el, "div", { class: "nbd-table", "data-lm-suppress-shortcuts": "true" });
  add(root, "style", {}, STYLE);
  const bar = add(root, "div", { class: "nbd-bar" });
  const tabs = add(bar, "span", { class: "nbd-tabs", role: "tablist" });
  const search = live ? add(bar, "input", { type: "search", placeholder: "Search", "aria-label": "Search all text columns" }) : null;
  const differ = add(bar, "label"), box = add(differ, "input", { type: "checkbox" });
  differ.append(" only rows that differ");
  box.addEventListener("change", () => change({ changed: box.checked }));
  const said = add(bar, "span", { class: "nbd-said", role: "status", "aria-live": "polite" });
  const view = add(root, "div", { class: "nbd-view", role: "grid", tabindex: "0", "aria-label": source.label || "rows" });
  const space = add(view, "div"), pane = add(space, "div", { class: "nbd-pane" });
  const grid = add(pane, "table", { role: "presentation" }), group = add(grid, "colgroup");
  const head = add(grid, "thead", { role: "rowgroup" }), body = add(grid, "tbody", { role: "rowgroup" });
  if (source.note) add(root, "div", { class: "nbd-note", dir: "auto" }, source.note);

  function drawTabs(failures) {
    tabs.replaceChildren();
    if (!failures || !live) return;
    for (const [failed, label] of [[false, "Rows"], [true, `${count(failures)} failed`]]) {
      const tab = add(tabs, "button", { role: "tab", type: "button", "aria-selected": String(answered.failures === failed) }, label);
      tab.addEventListener("click", () => { if (ask.failures !== failed) change({ failures: failed, sort: [], filter: {}, changed: false }); });
    }
  }

  function drawHead() {
    const signature = JSON.stringify(names());
    if (headed === signature) return drawSort();
    headed = signature;
    for (const old of [group, head]) old.replaceChildren();
    const titles = add(head, "tr", { role: "row", "aria-rowindex": "1" });
    add(titles, "th", { role: "columnheader", "aria-label": "row number" });
    add(group, "col", { style: `width:${String(total).length + 3}ch` });
    const width = columns.reduce((sum, column) => sum + (column.long ? LEAST : column.width), 0);
    pane.style.minWidth = `${width + String(total).length + 3}ch`;
    const last = columns.some((column) => column.long) ? null : columns.findLast((column) => !isNumber(column.type)); // takes what is left
    grid.style.width = columns.some((column) => column.long) || last ? "100%" : pane.style.minWidth;
    for (const column of columns) {
      add(group, "col", column.long || column === last ? {} : { style: `width:${column.width}ch` });
      const cell = add(titles, "th", { role: "columnheader", scope: "col", dir: "auto", title: `${column.name}: ${column.type}`, "aria-sort": "none" });
      if (isNumber(column.type)) cell.style.textAlign = "end";
      if (!live) { cell.textContent = column.name; continue; }
      const button = add(cell, "button", { type: "button" }, column.name);
      column.arrow = add(cell, "i", { "aria-hidden": "true" });
      column.head = cell;
      button.addEventListener("click", () => {
        const now = ask.sort[0]?.column === column.name ? ask.sort[0].reverse : null;
        change({ sort: now === null ? [{ column: column.name, reverse: false }] : now ? [] : [{ column: column.name, reverse: true }] });
      });
    }
    if (live) {
      const row = add(head, "tr", { role: "row", "aria-rowindex": "2" });
      add(row, "th", { role: "columnheader", "aria-label": "filters" });
      for (const column of columns) {
        const hint = isNumber(column.type) ? "> 0" : column.type === "bool" ? "true" : "contains";
        const input = add(add(row, "th", { role: "columnheader" }), "input", { type: "search", name: column.name, placeholder: hint, "aria-label": `Filter ${column.name}`, dir: "auto" });
        input.value = ask.filter[column.name] || "";
        input.addEventListener("input", typed);
      }
    }
    drawSort();
  }

  function drawSort() {
    for (const column of columns) {
      const now = answered.sort[0]?.column === column.name ? answered.sort[0].reverse : null;
      column.head?.setAttribute("aria-sort", now === null ? "none" : now ? "descending" : "ascending");
      if (column.arrow) column.arrow.textContent = now === null ? "" : now ? " ▼" : " ▲";
    }
  }

  // --- asking ---

  const names = () => columns.map((column) => column.name);

  function typed() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const filled = [...head.querySelectorAll("input")].filter((input) => input.value);
      change({ search: search.value, filter: Object.fromEntries(filled.map((input) => [input.name, input.value])) });
    }, 250);
  }
  search?.addEventListener("input", typed);

  async function change(what) {
    Object.assign(ask, what);
    const mine = ++era, wanted = structuredClone(ask);
    const busy = setTimeout(() => root.classList.toggle("nbd-busy", mine === era), 150);
    const same = wanted.failures === answered.failures;
    const answer = await reply(source.page, { start: 0, count: PAGE, columns: same ? names() : null, ...wanted });
    clearTimeout(busy);
    if (mine !== era) return;
    root.classList.remove("nbd-busy");
    const wrong = Boolean(answer.error);
    for (const input of head.querySelectorAll("input")) input.setAttribute("aria-invalid", String(wrong && Boolean(input.value)));
    if (wrong) return say(answer.error, true);
    answered = wanted;
    begin(answer);
  }

  async function reply(how, request) {
    const slow = setTimeout(() => say("waiting for the kernel …"), 3000);
    try { return await how(request); } catch { return { error: "no kernel answers: run the cell again" }; } finally { clearTimeout(slow); }
  }

  async function fetchPage(number) {
    const there = pages.get(number)?.rows.length ?? -1;
    if (!live || asked.has(number) || there >= Math.min(PAGE, total - number * PAGE) || asked.size >= 3) return;
    const mine = era;
    asked.add(number);
    const answer = await reply(source.page, { start: number * PAGE, count: PAGE, columns: names(), ...answered });
    if (mine !== era) return;
    asked.delete(number);
    if (answer.error) return say(answer.error, true);
    keep(number, answer);
    if (said.textContent !== summary) say(summary);
    draw();
  }

  function keep(number, answer) {
    pages.set(number, answer);
    if (pages.size > 40) pages.delete([...pages.keys()].sort((a, b) => Math.abs(b - number) - Math.abs(a - number))[0]);
  }

  function begin(answer) {
    for (const kept of [pages, asked, opened, values, shown]) kept.clear();
    body.replaceChildren();
    total = live ? answer.total : answer.rows.length;
    keep(0, answer);
    columns = answer.columns.map((column, number) => {
      const widest = Math.max(...answer.rows.slice(0, PAGE).map((row) => lengthOf(row[number])), column.name.length + 4, 6);
      const old = columns.find((other) => other.name === column.name);
      return old || { ...column, widest, long: widest > LONG && !isNumber(column.type), width: Math.min(widest, LONG) + 3 };
    });
    lines = Math.max(...columns.map((column) => (column.long ? (column.widest > 3 * LONG ? 3 : 2) : 1)), 1);
    height = lines * LINE + PAD;
    root.style.setProperty("--lines", lines);
    view.setAttribute("aria-rowcount", total + 2);
    view.setAttribute("aria-colcount", columns.length + 1);
    differ.hidden = !live || !columns.some((column) => column.beside);
    box.checked = answered.changed;
    drawTabs(answer.failures);
    drawHead();
    summary = rowsOf(answer.total);
    if (total < answer.total) summary = `first ${total} of ${summary}`;
    else if (total !== (answer.all ?? total)) summary = `${count(total)} of ${rowsOf(answer.all)}`;
    if (answer.column_count > columns.length) summary += ` · ${columns.length} of ${answer.column_count} columns`;
    say(summary);
    at = { row: 0, column: Math.min(at.column, Math.max(0, columns.length - 1)) };
    if (!view.style.height) view.style.height = `${Math.min(TALLEST, total * height + HEAD * head.rows.length + 3)}px`;
    move(0);
  }

  function say(text, wrong = false) {
    said.textContent = text;
    said.classList.toggle("nbd-wrong", wrong);
  }

  // --- where it is: `y`, in pixels of a table as high as it would be ---

  const room = () => Math.max(height, view.clientHeight - head.offsetHeight);
  const whole = () => total * height + [...opened.values()].reduce((sum, extra) => sum + extra, 0);
  const furthest = () => Math.max(0, whole() - room());
  const above = (row) => [...opened].reduce((sum, [other, extra]) => sum + (other < row ? extra : 0), row * height);

  function rowAt(place) {
    let before = 0;
    for (const [row, extra] of [...opened].sort((a, b) => a[0] - b[0])) {
      if (place < row * height + before) break;
      if (place < (row + 1) * height + before + extra) return row;
      before += extra;
    }
    return Math.max(0, Math.min(total - 1, Math.floor((place - before) / height)));
  }

  function move(place) {
    y = Math.max(0, Math.min(furthest(), place));
    const high = Math.min(HIGHEST, whole() + head.offsetHeight);
    space.style.height = `${high}px`;
    pane.style.height = `${view.clientHeight}px`;
    const most = high - view.clientHeight, wanted = furthest() ? (y / furthest()) * most : 0;
    if (Math.abs(view.scrollTop - wanted) >= 1) view.scrollTop = wanted;
    placed = view.scrollTop;
    draw();
  }

  view.addEventListener("scroll", () => {
    if (Math.abs(view.scrollTop - placed) < 1) return; // where it was put
    placed = view.scrollTop;
    const most = view.scrollHeight - view.clientHeight;
    y = most > 0 ? Math.min(1, view.scrollTop / most) * furthest() : 0;
    draw();
  });
  view.addEventListener("wheel", (event) => { // scrolled by fractions, a pixel would be many
    if (whole() <= HIGHEST || event.ctrlKey || !event.deltaY || event.target.closest?.("tr.open .nbd-cell")) return;
    const place = y + event.deltaY * [1, LINE, room()][event.deltaMode];
    if (place === Math.max(0, Math.min(furthest(), place)) || (y > 0 && y < furthest())) { event.preventDefault(); move(place); }
  }, { passive: false });

  // --- drawing ---

  function draw() { if (!frame) frame = requestAnimationFrame(() => { frame = 0; paint(); }); }

  function paint() {
    const first = total ? rowAt(y) : 0;
    let row = first, used = above(first) - y;
    const wanted = new Map();
    for (; row < total && used < room(); row++) { wanted.set(row, rowElement(row)); used += height + (opened.get(row) || 0); }
    const seen = new Set(wanted.values());
    for (const old of [...body.children]) if (!seen.has(old)) old.remove(); // what stays is not touched: it may be selected, or scrolled
    let next = body.firstChild;
    for (const element of seen) if (element === next) next = next.nextSibling; else body.insertBefore(element, next);
    for (const old of shown.keys()) if (!wanted.has(old)) shown.delete(old);
    body.style.transform = `translateY(${above(first) - y}px)`;
    let grown = false;
    for (const [number, element] of wanted) {
      if (!opened.has(number)) continue;
      const extra = element.offsetHeight - height;
      if (Math.abs(extra - opened.get(number)) > 1) { opened.set(number, extra); grown = true; }
    }
    if (grown) move(y);
    for (let number = Math.floor(first / PAGE); number <= Math.floor(Math.min(total - 1, row + 10) / PAGE); number++) fetchPage(number);
    const active = shown.get(at.row)?.element.cells[at.column + 1];
    if (active) view.setAttribute("aria-activedescendant", active.id); else view.removeAttribute("aria-activedescendant");
  }

  function rowElement(row) {
    const page = pages.get(Math.floor(row / PAGE)), cells = page?.rows[row % PAGE], whole = values.get(row);
    const state = `${Boolean(cells)} ${opened.has(row)} ${whole?.size || 0} ${at.row === row ? at.column : ""}`;
    const there = shown.get(row);
    if (there?.state === state) return there.element;
    const element = add(null, "tr", { role: "row", "aria-rowindex": row + 3, class: `${row % 2 ? "odd" : ""}${opened.has(row) ? " open" : ""}${at.row === row ? " at" : ""}` });
    element.style.height = `${height}px`;
    add(add(element, "td", { role: "rowheader" }), "div", { class: "nbd-cell nbd-number nbd-nr" }, cells ? String(page.numbers?.[row % PAGE] ?? row) : "…");
    columns.forEach((column, number) => {
      const place = add(element, "td", { role: "gridcell", id: `${id}-${row}-${number}` });
      if (at.row === row && at.column === number) place.className = "at";
      const box = add(place, "div", { class: isNumber(column.type) ? "nbd-cell nbd-number" : "nbd-cell", dir: "auto" });
      if (cells?.[number]?.length > 400 && typeof cells[number] !== "string") place.title = `${count(cells[number].length)} characters`;
      if (cells) fill(box, column, cells[number], whole?.get(column.name));
      place.addEventListener("click", () => {
        if (!getSelection().isCollapsed) return;
        const more = opened.has(row) || [...element.querySelectorAll(".nbd-cell")].some((other) => other.scrollHeight > other.clientHeight + 1 || other.querySelector(".nbd-more"));
        choose(row, number);
        if (more) fold(row);
      });
    });
    shown.set(row, { state, element });
    return element;
  }

  function fill(box, column, cell, whole) {
    const value = whole || cell;
    if (value === null || value.text === null) return add(box, "span", { class: "nbd-none", title: "no value" }, "∅");
    if (typeof value === "string") return box.append(value);
    const left = columns.findIndex((other) => other.name === column.beside) > columns.indexOf(column);
    if (value.parts) for (const [text, differs] of value.parts) add(box, differs ? (left ? "del" : "ins") : "span", {}, text);
    else box.textContent = value.text;
    const seen = whole ? value.text.length : 0;
    if (value.length > seen && (!whole || value.length > 1e6)) add(box, "span", { class: "nbd-more" }, ` … ${count(value.length)} characters`);
  }

  // --- what a person does ---

  function choose(row, column) {
    at = { row: Math.max(0, Math.min(total - 1, row)), column: Math.max(0, Math.min(columns.length - 1, column)) };
    const top = above(at.row), end = top + height + (opened.get(at.row) || 0);
    move(top < y ? top : end > y + room() ? Math.min(top, end - room()) : y);
  }

  async function fold(row) {
    if (opened.delete(row)) { values.delete(row); return move(y); }
    const page = pages.get(Math.floor(row / PAGE)), cells = page?.rows[row % PAGE], mine = era;
    if (!cells) return;
    opened.set(row, 0);
    move(y);
    if (!source.value) return;
    columns.forEach(async (column, number) => {
      if (!cells[number]?.length || typeof cells[number] === "string") return;
      const answer = await reply(source.value, { row: page.numbers[row % PAGE], column: column.name, failures: answered.failures });
      if (mine !== era || !opened.has(row)) return;
      if (answer.error) return say(answer.error, true);
      if (!values.has(row)) values.set(row, new Map());
      values.get(row).set(column.name, answer);
      draw();
    });
  }

  view.addEventListener("keydown", (event) => {
    if (event.target !== view || event.ctrlKey || event.metaKey || event.altKey) return;
    const screen = Math.max(1, Math.floor(room() / height) - 1);
    const steps = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1], PageDown: [screen, 0], PageUp: [-screen, 0], Home: [-total, 0], End: [total, 0] };
    if (event.key === "Enter" || event.key === " ") fold(at.row);
    else if (steps[event.key]) choose(at.row + steps[event.key][0], at.column + steps[event.key][1]);
    else return;
    event.preventDefault(); event.stopPropagation();
  });

  begin(source.first);
  // What is out of sight may have had no height when it was drawn, and its size does not change when it comes into view.
  const again = () => { if (view.clientHeight) move(y); }, size = new ResizeObserver(again), sight = new IntersectionObserver(again);
  for (const watcher of [size, sight]) watcher.observe(view);
  size.observe(head); // another theme has other letters
  return () => { era++; clearTimeout(timer); size.disconnect(); sight.disconnect(); cancelAnimationFrame(frame); root.remove(); };
}

export default host((el, model, ask) => {
  const way = (op) => (request) => ask(op, request);
  return table(el, { first: model.get("first"), label: model.get("label"), note: model.get("note"), page: way("page"), value: way("value") });
});
