// A step that runs: a bar, a line and a Stop button. All state is in the model's traits; text reaches the page by textContent only.
//
// meter(el, stop) builds it and gives {show({title, line, shares: {cached, new, failed}, over}), remove()}; `stop` is called when Stop is pressed.

import { host } from "./host.js";

const STYLE = `
.nbd-meter { --m: var(--jp-border-color2, #d1d9e0); --a: var(--jp-brand-color1, #0969da); --bad: var(--jp-error-color1, #cf222e);
  color: var(--jp-content-font-color1, #1f2328); font-family: var(--jp-content-font-family, system-ui, sans-serif); font-size: 13px; line-height: 20px; max-width: 760px; }
@media (prefers-color-scheme: dark) { .nbd-meter { color: var(--jp-content-font-color1, #e6edf3); --m: var(--jp-border-color2, #3d444d); --a: var(--jp-brand-color1, #4493f8); } }
.nbd-meter > div:first-of-type { display: flex; flex-wrap: wrap; gap: 2px 12px; align-items: baseline; }
.nbd-meter button { font: inherit; color: inherit; background: none; border: 1px solid var(--m); border-radius: 4px; padding: 0 10px; cursor: pointer; }
.nbd-meter button:hover:enabled { border-color: var(--bad); color: var(--bad); }
.nbd-meter button:disabled { opacity: .6; cursor: default; }
.nbd-meter button:focus-visible { outline: 2px solid var(--a); outline-offset: 1px; }
.nbd-meter span { font-variant-numeric: tabular-nums; flex: 1; min-width: 16em; }
.nbd-bars { display: flex; height: 6px; margin: 6px 0 2px; border-radius: 3px; overflow: hidden; background: var(--m); }
.nbd-bars[hidden] { display: none; } .nbd-bars i { transition: width .25s linear; }
.nbd-cached { background: var(--a); opacity: .5; } .nbd-new { background: var(--a); } .nbd-failed { background: var(--bad); }
@media (prefers-reduced-motion: reduce) { .nbd-bars[hidden] { display: none; } .nbd-bars i { transition: none; } }
`;

export function meter(el, stop) {
  const add = (parent, name, kind = "", text = "") => {
    const element = document.createElement(name);
    if (kind) element.className = kind;
    element.textContent = text;
    return parent.appendChild(element);
  };
  const root = add(el, "div", "nbd-meter");
  add(root, "style", "", STYLE);
  const bar = add(root, "div"), title = add(bar, "strong"), line = add(bar, "span"), button = add(bar, "button", "", "Stop");
  const bars = add(root, "div", "nbd-bars");
  const parts = Object.fromEntries(["cached", "new", "failed"].map((name) => [name, add(bars, "i", `nbd-${name}`)]));
  button.type = "button";
  bars.setAttribute("role", "progressbar");
  bars.setAttribute("aria-valuemin", "0");
  bars.setAttribute("aria-valuemax", "100");
  button.addEventListener("click", () => {
    button.disabled = true;
    button.textContent = "stopping…";
    stop();
  });
  const show = (state) => {
    title.textContent = state.title;
    line.textContent = state.line;
    button.hidden = bars.hidden = state.over;
    bars.setAttribute("aria-label", state.title || "progress");
    let whole = 0;
    for (const name in parts) {
      const share = Math.max(0, Math.min(1, Number(state.shares[name]) || 0));
      whole += share;
      parts[name].style.width = `${100 * share}%`;
    }
    bars.setAttribute("aria-valuenow", String(Math.min(100, Math.round(100 * whole))));
    bars.setAttribute("aria-valuetext", state.line);
  };
  return { show, remove: () => root.remove() };
}

export default host((el, model) => {
  const there = meter(el, () => model.send({ op: "stop" }));
  let asked = 0;
  const show = () => { asked = 0; there.show({ title: model.get("title"), line: model.get("line"), shares: model.get("shares"), over: model.get("over") }); };
  const changed = () => { if (!asked) asked = requestAnimationFrame(show); };
  model.on("change", changed);
  show();
  return () => { cancelAnimationFrame(asked); model.off("change", changed); there.remove(); };
});
