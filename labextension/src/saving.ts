import { NotebookPanel } from '@jupyterlab/notebook';

/**
 * Let a document's saves happen one after another.
 *
 * Of two at once, JupyterLab takes what the first has written for a change by somebody else, and asks the user which to keep
 * (`Context._maybeSave` compares the file's hash with the one that the last *finished* save knows). We save by ourselves when
 * a cell runs, so a user's Ctrl+S would meet it.
 */
export function saveInTurn(context: NotebookPanel['context']): void {
  const save = context.save.bind(context);
  let last: Promise<unknown> = Promise.resolve();
  context.save = () => {
    const next = last.then(save, save);
    last = next;
    return next;
  };
}
