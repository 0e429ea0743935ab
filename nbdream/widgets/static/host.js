// Where a component lives: as the view of a widget; or, where an output holds nothing but its picture as HTML, in the place of that.
// A page that has the widget's model finds the place by its mark. So what is saved is the picture, and no view that a page without a
// kernel could not show.
//
// host(build) gives a widget's module. build(el, model, ask) builds the component and gives the function that takes it down;
// ask(op, values) is a promise of the kernel's answer to {op, id, ...values}.

const LOOK = 250; // milliseconds between two looks for places

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

  // Take the place of what is there, until it ends.
  function settle(model, place) {
    const still = [...place.childNodes];
    place.dataset.nbdreamLive = "";
    place.replaceChildren();
    const end = begin(model, place);
    return () => { end(); place.replaceChildren(...still); delete place.dataset.nbdreamLive; };
  }

  return {
    initialize({ model }) {
      const mark = model.get("mark"), settled = [];
      if (!/^[0-9a-f]+$/.test(mark)) return undefined;
      const look = () => {
        for (const place of document.querySelectorAll(`[data-nbdream="${mark}"]:not([data-nbdream-live])`)) settled.push(settle(model, place));
      };
      const timer = setInterval(look, LOOK);
      look();
      return () => { clearInterval(timer); for (const end of settled) end(); };
    },
    render: ({ model, el }) => begin(model, el),
  };
}
