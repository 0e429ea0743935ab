// Rows that a person decides on, a key for each decision. Whatever a model wrote reaches the page by textContent only.
//
// annotate(el, source) builds it in `el` and gives the function that takes it down. `source` is
//   data           what is saved: {name, mode, instruction, line, columns, rows, decisions, total}
//   ask(op, values)  a promise of the state of the next row, or {error}: of "annotate_state" {after} or {row}, "decide" {row, key, do, value}, "undo" {}.
// Without `ask` there is what was saved and nothing to decide. A state is {mode, highest, instruction, who, others, total, done, line, row},
// and of a row, unless it is null, {key, mine, around, about}: mine is what oneself decided, {do, value}, or null; fields {name, text, length, edits}. `edits` is true where the text may be edited,
// or the text as it is where that is not what is seen.

import { host } from "./host.js";

const AROUND = { length: 600, lines: 8 }, ABOUT = { length: 3000, lines: 30 }; // a longer text is folded

const STYLE = `
.nbd-ann { --t: var(--jp-content-font-color1, #1f2328); --t2: var(--jp-content-font-color2, #59636e); --b: var(--jp-border-color1, #d1d9e0);
  --bg: var(--jp-layout-color0, #fff); --bg2: var(--jp-layout-color1, #f6f8fa); --accent: var(--jp-brand-color1, #0969da); --bad: var(--jp-error-color1, #cf222e);
  color: var(--t); background: var(--bg); font-family: var(--jp-content-font-family, system-ui, sans-serif); font-size: 13px; line-height: 20px;
  border: 1px solid var(--b); border-radius: 6px; padding: 10px 14px; max-width: 980px; box-sizing: border-box; position: relative; }
@media (prefers-color-scheme: dark) { .nbd-ann { --t: var(--jp-content-font-color1, #e6edf3); --t2: var(--jp-content-font-color2, #9198a1);
  --b: var(--jp-border-color1, #3d444d); --bg: var(--jp-layout-color0, #0d1117); --bg2: var(--jp-layout-color1, #151b23);
  --accent: var(--jp-brand-color1, #4493f8); --bad: var(--jp-error-color1, #f85149); } }
.nbd-ann * { box-sizing: border-box; }
.nbd-ann:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
.nbd-ann :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.nbd-ann-bar { display: flex; flex-wrap: wrap; gap: 2px 12px; align-items: baseline; }
.nbd-ann-bar > :nth-child(2) { flex: 1; font-variant-numeric: tabular-nums; }
.nbd-ann-who, .nbd-ann-name, .nbd-ann-line { color: var(--t2); }
.nbd-ann-track { height: 4px; margin: 6px 0 8px; border-radius: 2px; overflow: hidden; background: var(--b); }
.nbd-ann-track > i { display: block; height: 100%; background: var(--accent); }
.nbd-ann-told { margin: 0 0 8px; white-space: pre-wrap; overflow-wrap: anywhere; font-weight: 600; }
.nbd-ann-field { margin: 0 0 8px; min-width: 0; flex: 1 1 0; }
.nbd-ann-name { font-size: 12px; line-height: 18px; }
.nbd-ann-text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; }
.nbd-ann-text.open { max-height: 60vh; overflow: auto; }
.nbd-ann-about { display: flex; flex-wrap: wrap; gap: 0 12px; }
.nbd-ann-about > .nbd-ann-field { min-width: 16em; padding: 8px 12px; border: 1px solid var(--b); border-radius: 4px; background: var(--bg2); font-size: 14px; line-height: 22px; }
.nbd-ann textarea { display: block; width: 100%; min-height: 7em; resize: vertical; font: inherit; color: var(--t); background: var(--bg); border: 1px solid var(--accent); border-radius: 4px; padding: 6px 8px; }
.nbd-ann-keys { display: flex; flex-wrap: wrap; gap: 6px 8px; align-items: center; margin: 4px 0 6px; }
.nbd-ann button { font: inherit; color: var(--t); background: var(--bg); border: 1px solid var(--b); border-radius: 4px; padding: 1px 10px; cursor: pointer; }
.nbd-ann button:hover { border-color: var(--accent); }
.nbd-ann button[disabled] { opacity: .45; cursor: default; border-color: var(--b); }
.nbd-ann button[aria-pressed=true] { border-color: var(--accent); box-shadow: inset 0 0 0 1px var(--accent); font-weight: 600; }
.nbd-ann-mine { color: var(--t2); margin: 0 0 6px; white-space: pre-wrap; overflow-wrap: anywhere; }
.nbd-ann-keys input { font: inherit; width: 6em; color: var(--t); background: var(--bg); border: 1px solid var(--accent); border-radius: 4px; padding: 1px 6px; }
.nbd-ann button.plain { border-color: transparent; color: var(--t2); padding: 1px 6px; }
.nbd-ann kbd { font: 12px var(--jp-code-font-family, ui-monospace, monospace); color: inherit; background: var(--bg2); border: 1px solid var(--b); border-radius: 3px; padding: 0 5px; margin-inline-end: 6px; }
.nbd-ann-said { color: var(--t2); min-height: 20px; }
.nbd-ann-said.wrong { color: var(--bad); }
.nbd-ann-read { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.nbd-ann-help { margin: 8px 0 0; padding: 8px 0 0; border-top: 1px solid var(--b); }
.nbd-ann-help > div { display: flex; gap: 8px; margin: 0 0 3px; }
.nbd-ann-help kbd { flex: 0 0 auto; min-width: 1.7em; text-align: center; }
.nbd-ann table { border-collapse: collapse; margin: 0 0 6px; font-size: inherit; color: inherit; display: block; overflow-x: auto; }
.nbd-ann th, .nbd-ann td { text-align: start; vertical-align: top; padding: 3px 8px; border-bottom: 1px solid var(--b); white-space: pre-wrap; overflow-wrap: anywhere; max-width: 36em; }
.nbd-ann [hidden] { display: none !important; }
`;

const MINE = {
  review: [["a", "accept", "Accept"], ["e", "edit", "Edit"], ["r", "reject", "Reject"]],
  prefer: [["ArrowLeft", "choose", "Left", "left"], ["ArrowRight", "choose", "Right", "right"], ["t", "tie", "Tie"]],
};
const SHOWN = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
const DONE = { accept: "Accepted", edit: "Edited", reject: "Rejected", tie: "Tie" };
const count = (number) => number.toLocaleString("en");

function add(parent, name, properties = {}, text) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

// What was decided, in words.
function words({ do: act, value }) {
  return act === "rate" ? `Rated ${value}` : act === "choose" ? (value === "left" ? "Left" : "Right") : DONE[act] || act;
}

function answers(state) {
  if (state.mode !== "rate") return MINE[state.mode] || [];
  return Array.from({ length: state.highest }, (_, at) => [String(at + 1), "rate", "", at + 1]);
}

export function annotate(el, source) {
  const { data } = source;
  let state = null, busy = false, gone = false, editor = null;

  const root = add(el, "div", { class: "nbd-ann", role: "group", "aria-label": `Annotate ${data.name}`, "data-lm-suppress-shortcuts": "true" });
  add(root, "style", {}, STYLE);
  const bar = add(root, "div", { class: "nbd-ann-bar" });
  add(bar, "strong", { dir: "auto" }, data.name);
  const progress = add(bar, "span"), who = add(bar, "span", { class: "nbd-ann-who", dir: "auto" });
  const track = add(root, "div", { class: "nbd-ann-track", role: "progressbar", "aria-label": "rows that you decided", "aria-valuemin": "0" });
  const filled = add(track, "i");
  const told = add(root, "p", { class: "nbd-ann-told", dir: "auto" });
  const around = add(root, "div"), about = add(root, "div", { class: "nbd-ann-about" });
  const own = add(root, "div", { class: "nbd-ann-mine", dir: "auto" });
  const keys = add(root, "div", { class: "nbd-ann-keys", role: "toolbar", "aria-label": "decisions" });
  const said = add(root, "div", { class: "nbd-ann-said", role: "status", "aria-live": "polite", "aria-atomic": "true" });
  const read = add(root, "div", { class: "nbd-ann-read", "aria-live": "polite" });
  const line = add(root, "div", { class: "nbd-ann-line" });
  const help = add(root, "div", { class: "nbd-ann-help", hidden: "" });

  function say(text, wrong = false) {
    said.textContent = text;
    said.classList.toggle("wrong", wrong);
  }

  function tell(found) {
    told.textContent = found.instruction;
    told.hidden = !found.instruction;
    line.textContent = found.line;
  }

  // --- what was saved: the first rows with their decisions ---

  function still(note) {
    tell(data);
    track.hidden = true; keys.hidden = true; own.hidden = true;
    about.replaceChildren();
    const table = add(around, "table"), head = add(add(table, "thead"), "tr"), body = add(table, "tbody");
    for (const name of [...data.columns, "decision"]) add(head, "th", { scope: "col", dir: "auto" }, name);
    data.rows.forEach((row, at) => {
      const element = add(body, "tr");
      for (const cell of [...row, data.decisions[at]]) {
        const long = cell !== null && typeof cell === "object";
        add(element, "td", { dir: "auto" }, cell === null ? "∅" : long ? `${cell.text}… (${count(cell.length)} characters)` : cell);
      }
    });
    say(note);
  }

  // --- a row ---

  function field(parent, most, { name, text, length }) {
    const box = add(parent, "div", { class: "nbd-ann-field" });
    add(box, "div", { class: "nbd-ann-name", dir: "auto" }, name);
    const shown = add(box, "div", { class: "nbd-ann-text", dir: "auto" });
    if (text === null) { shown.textContent = "∅"; return; }
    const lines = text.split("\n", most.lines + 1);
    if (text.length <= most.length && lines.length <= most.lines) { shown.textContent = text; return; }
    const short = lines.slice(0, most.lines).join("\n").slice(0, most.length);
    const button = add(box, "button", { type: "button", class: "plain fold" });
    const fold = (open) => {
      shown.textContent = open ? text : `${short}…`;
      shown.classList.toggle("open", open);
      button.setAttribute("aria-expanded", String(open));
      button.textContent = open ? "Fold" : `Show all ${count(length)} characters`;
      if (open && length > text.length) button.textContent = `Fold (the first ${count(text.length)} of ${count(length)} characters)`;
    };
    button.addEventListener("click", () => { fold(button.getAttribute("aria-expanded") === "false"); root.focus({ preventScroll: true }); });
    fold(false);
  }

  function key(parent, name, label, act, quiet = false) {
    const button = add(parent, "button", { type: "button", "aria-keyshortcuts": name.replace("Ctrl", "Control"), ...(quiet ? { class: "plain" } : {}) });
    add(button, "kbd", { "aria-hidden": "true" }, SHOWN[name] || name);
    add(button, "span", label ? {} : { class: "none" }, label);
    if (!label) button.setAttribute("aria-label", `Rate ${name}`);
    button.addEventListener("click", () => { root.focus({ preventScroll: true }); act(); });
    return button;
  }

  function buttons() {
    keys.replaceChildren();
    if (editor) {
      key(keys, "Ctrl+Enter", "Save", save);
      key(keys, "Escape", "Leave", leave);
      return;
    }
    const there = state.row !== null;
    if (there) for (const [name, act, label, value] of answers(state)) {
      const button = key(keys, name, label, () => choose(act, value));
      button.disabled = act === "edit" && !editable();
      if (state.mine) button.setAttribute("aria-pressed", String(state.mine.do === act && (value === undefined || state.mine.value === value)));
    }
    if (there) key(keys, "s", "Skip", skip, true);
    key(keys, "ArrowUp", "Back", () => go(-1), true).disabled = state.row === 0;
    key(keys, "ArrowDown", "Next", () => go(1), true).disabled = state.row === state.total - 1;
    key(keys, "g", "Go to", ask, true);
    key(keys, "u", "Undo", undo, true);
    key(keys, "?", "Keys", explain, true).setAttribute("aria-expanded", String(!help.hidden));
  }

  function draw(found, before = "") {
    state = found;
    editor = null;
    tell(state);
    progress.textContent = `${count(state.done)} of ${count(state.total)}`;
    who.textContent = state.who + (state.others ? ` and ${count(state.others)} more` : "");
    track.setAttribute("aria-valuemax", String(state.total));
    track.setAttribute("aria-valuenow", String(state.done));
    filled.style.width = `${(100 * state.done) / state.total}%`;
    around.replaceChildren(); about.replaceChildren();
    const done = state.row === null;
    for (const part of state.around || []) field(around, AROUND, part);
    for (const part of state.about || []) field(about, ABOUT, part);
    const heard = (state.about?.length ? state.about : state.around) || [];
    read.textContent = heard.map(({ name, text }) => `${name}: ${text === null ? "no value" : text.slice(0, 300)}`).join(". ");
    buttons();
    own.hidden = !state.mine;
    own.textContent = state.mine ? `You decided: ${words(state.mine).toLowerCase()}${state.mine.do === "edit" ? `: ${state.mine.value}` : ""}` : "";
    const where = done ? `All ${count(state.total)} row${state.total === 1 ? " is" : "s are"} decided.` : `Row ${count(state.row + 1)} of ${count(state.total)}.${state.mine ? ` ${own.textContent.slice(0, 200)}.` : ""}`;
    say(before ? `${before}. ${where}` : where);
  }

  // --- what a person does ---

  async function send(op, values, before) {
    if (busy) return;
    busy = true;
    root.setAttribute("aria-busy", "true");
    const inside = root.contains(document.activeElement);
    let found;
    try { found = await source.ask(op, values); } catch (error) { found = { error: String(error?.message || error) }; }
    if (gone) return;
    busy = false;
    root.removeAttribute("aria-busy");
    if (found.error) {
      if (state) say(found.error, true); else still(found.error);
      return;
    }
    draw(found, found.undone === false ? "There is nothing to take back" : before);
    if (!inside) return;
    root.focus({ preventScroll: true });
    root.scrollIntoView({ block: "nearest" });
    about.firstChild?.scrollIntoView({ block: "nearest" }); // where all of it is higher than the window
  }

  const decide = (act, value, before) => send("decide", { row: state.row, key: state.key, do: act, value }, before);
  const skip = () => send("annotate_state", { after: state.row }, "Skipped");
  const undo = () => send("undo", {}, "Taken back");
  const to = (row) => { if (row >= 0 && row < state.total && row !== state.row) send("annotate_state", { row }); };
  const go = (by) => to(state.row === null ? (by < 0 ? state.total - 1 : 0) : state.row + by);
  const editable = () => Boolean(state.about?.[0]?.edits);

  function choose(act, value) {
    if (act === "edit") edit();
    else decide(act, value ?? null, DONE[act] || (act === "rate" ? `Rated ${value}` : value === "left" ? "Left" : "Right"));
  }

  function edit() {
    if (busy || !editable()) return;
    const { edits, text, name } = state.about[0];
    const box = about.firstChild;
    editor = add(null, "textarea", { "aria-label": `Edit ${name}`, dir: "auto", spellcheck: "true" });
    editor.value = edits === true ? text : edits;
    const before = state.mine?.do === "edit" ? state.mine.value : null;
    editor.defaultValue = editor.value; // as a text area holds it: line ends may be others
    if (before !== null) editor.value = before;
    box.replaceChildren(box.firstChild, editor);
    editor.style.height = `${Math.min(480, editor.scrollHeight + 8)}px`;
    buttons();
    say("Editing. Control and Enter saves, Escape leaves.");
    editor.focus();
  }

  function save() {
    if (editor.value === editor.defaultValue) decide("accept", null, "Accepted as it is");
    else decide("edit", editor.value, "Edited");
  }

  function leave() {
    draw(state, "Not edited");
    root.focus({ preventScroll: true });
  }

  // A row by its number.
  function ask() {
    if (busy || editor) return;
    keys.replaceChildren();
    const input = add(keys, "input", { type: "number", min: "1", max: String(state.total), "aria-label": `Go to row, 1 to ${state.total}` });
    input.value = String((state.row ?? 0) + 1);
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      const row = Math.round(Number(input.value)) - 1;
      buttons();
      root.focus({ preventScroll: true });
      if (event.key === "Enter") to(Math.max(0, Math.min(state.total - 1, row)));
    });
    input.addEventListener("blur", () => { if (keys.contains(input)) buttons(); });
    input.focus();
    input.select();
  }

  function explain() {
    help.hidden = !help.hidden;
    help.replaceChildren();
    const own = state.mode === "rate" ? [[`1 to ${state.highest}`, "rate"]] : answers(state).map(([name, , label]) => [SHOWN[name] || name, label.toLowerCase()]);
    const rest = [["s", "skip: the row comes again"], ["u", "undo the last decision"], ["↑ ↓", "the row before, the next one: a decision made there replaces yours"], ["Home End", "the first and the last row"], ["g", "go to a row by its number"], ["f", "show all of long texts, or fold them"], ["?", "these keys"]];
    const editing = state.mode === "review" ? [["Ctrl+Enter", "save what was edited (⌘+Enter on a Mac)"], ["Escape", "leave without saving"]] : [];
    for (const [name, does] of [...own, ...editing, ...rest]) {
      const row = add(help, "div");
      add(row, "kbd", {}, name);
      add(row, "span", {}, does);
    }
    buttons();
  }

  function pressed(event) {
    if (editor && event.target === editor) {
      event.stopPropagation();
      if (event.key === "Escape") leave();
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
      else return;
      event.preventDefault();
      return;
    }
    if (!state || event.ctrlKey || event.metaKey || event.altKey) return;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const own = state.row === null || editor ? null : answers(state).find(([key]) => key === name);
    if (own) { if (!event.repeat) choose(own[1], own[3]); } // a key that is held down decides one row
    else if (editor && name !== "Escape") return;
    else if (editor) leave();
    else if (name === "s" && state.row !== null) skip();
    else if (name === "ArrowUp" || name === "ArrowDown") go(name === "ArrowUp" ? -1 : 1);
    else if (name === "Home" || name === "End") to(name === "Home" ? 0 : state.total - 1);
    else if (name === "g") ask();
    else if (name === "u") { if (!event.repeat) undo(); }
    else if (name === "?") explain();
    else if (name === "f") for (const button of root.querySelectorAll("button.fold")) button.click();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  if (source.ask) {
    root.tabIndex = 0;
    root.addEventListener("keydown", pressed);
    tell(data);
    say("Asking the kernel …");
    send("annotate_state", {});
  } else still("");
  return () => { gone = true; root.remove(); };
}

export default host((el, model, ask) => {
  const told = async (op, values) => { const answer = await ask(op, values); return answer.error ? answer : answer.result; };
  return annotate(el, { data: model.get("data"), ask: told });
});
