// Where a component lives: as the view of a widget; or, where an output holds nothing but its picture as HTML, in the place of that.
// A page that has the widget's model finds the place by its mark. So what is saved is the picture, and no view that a page without a
// kernel could not show.
//
// host(build) gives a widget's module. build(el, model, ask) builds the component and gives the function that takes it down;
// ask(op, values) is a promise of the kernel's answer to {op, id, ...values}.

const LOOK = 250; // milliseconds between two looks for places
const SOON = 2000; // milliseconds in which the first place is looked for at every frame: it comes just after the model

function asking(model) {
  const waiting = new Map(), mine = Math.random().toString(36).slice(2);
  let last = 0;
  const received = (message) => { waiting.get(message.id)?.(message); waiting.delete(message.id); };
  model.on("msg:custom", received);
  const ask = (op, values) => new Promise((answer) => {
    const id = `${mine}-${++last}`;
    waiting.set(id, answer);
    model.send({ ...values, op, id });
  });
  return [ask, () => model.off("msg:custom", received)];
}

export function host(build) {
  function begin(model, el) {
    const [ask, deaf] = asking(model);
    const down = build(el, model, ask);
    return () => { deaf(); down(); };
  }

  // Take the place of what is there, until it ends. A page that draws its output anew gives another place, into which all moves as it is.
  function settle(model, first, look) {
    const box = document.createElement("div"), watch = new MutationObserver(look);
    let place, still, held = null;
    const leave = () => { place.replaceChildren(...still); delete place.dataset.nbdreamLive; };
    const enter = (next) => {
      if (place) leave();
      place = next;
      still = [...place.childNodes];
      place.dataset.nbdreamLive = "";
      place.replaceChildren(box);
      watch.disconnect();
      watch.observe(place.parentNode, { childList: true });
      if (held?.isConnected && document.activeElement === document.body) held.focus({ preventScroll: true });
    };
    box.addEventListener("focusin", ({ target }) => { held = target; });
    box.addEventListener("focusout", () => setTimeout(() => { if (!box.contains(document.activeElement)) held = null; }));
    enter(first);
    const down = begin(model, box);
    const end = () => { watch.disconnect(); down(); leave(); };
    return { enter, end, lost: () => !place.isConnected };
  }

  return {
    initialize({ model }) {
      const mark = model.get("mark"), settled = [];
      if (!/^[0-9a-f]+$/.test(mark)) return undefined;
      const look = () => {
        for (const place of document.querySelectorAll(`[data-nbdream="${mark}"]:not([data-nbdream-live])`)) {
          const moved = settled.find((one) => one.lost());
          if (moved) moved.enter(place); else settled.push(settle(model, place, look));
        }
      };
      const timer = setInterval(look, LOOK), until = performance.now() + SOON;
      let frame = 0;
      const soon = () => { look(); if (!settled.length && performance.now() < until) frame = requestAnimationFrame(soon); };
      soon();
      return () => { clearInterval(timer); cancelAnimationFrame(frame); for (const one of settled) one.end(); };
    },
    render: ({ model, el }) => begin(model, el),
  };
}
