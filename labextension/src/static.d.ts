/** The components that the widgets show in a notebook without this extension, too. */
declare module '*/static/table.js' {
  export function table(element: HTMLElement, source: object): () => void;
}
declare module '*/static/annotate.js' {
  export function annotate(element: HTMLElement, source: object): () => void;
}
declare module '*/static/curve.js' {
  export function curve(element: HTMLElement, source: object): { update(source: object): void; down(): void };
}
declare module '*/static/lineage.js' {
  export function lineage(element: HTMLElement, source: object): { update(source: object): void; down(): void };
}
