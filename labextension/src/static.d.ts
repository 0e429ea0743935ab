/** The components that the widgets show in a notebook without this extension, too. */
declare module '*/static/table.js' {
  export function table(element: HTMLElement, source: object): () => void;
}
declare module '*/static/annotate.js' {
  export function annotate(element: HTMLElement, source: object): () => void;
}
