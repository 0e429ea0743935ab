import { JupyterFrontEnd } from '@jupyterlab/application';
import { Dialog, ICommandPalette, Notification, showDialog } from '@jupyterlab/apputils';
import { Cell } from '@jupyterlab/cells';
import { INotebookTracker, NotebookActions } from '@jupyterlab/notebook';
import { KernelMessage } from '@jupyterlab/services';
import { Widget } from '@lumino/widgets';
import { dreamIcon } from './icons';
import { Link } from './link';
import { isOurs } from './protocol';

export const OPEN = 'nbdream:open';
export const RECOMPUTE = 'nbdream:recompute';
export const RUN_STALE = 'nbdream:run-stale';
export const ESTIMATE = 'nbdream:estimate';
export const STOP = 'nbdream:stop';

const NOTHING = { args: { type: 'object' as const, properties: {}, additionalProperties: false } };

export interface IContext {
  app: JupyterFrontEnd;
  tracker: INotebookTracker;
  palette: ICommandPalette | null;
  /** The way to the kernel of the notebook in front. */
  link(): Link | null;
  openPanel(): void;
}

/** Say what went wrong, in a line. */
export function report(error: unknown): void {
  Notification.error(`nbdream: ${error instanceof Error ? error.message : String(error)}`, { autoClose: 6000 });
}

/** The active cell, when it is one of ours and its kernel can be asked. */
function active(context: IContext): { link: Link; cell: Cell } | null {
  const link = context.link();
  const cell = context.tracker.activeCell;
  return link?.alive && cell && isOurs(cell.model.sharedModel.getSource()) ? { link, cell } : null;
}

/** Run the cells whose results are stale, in the notebook's order. */
export async function runStale(link: Link): Promise<void> {
  const cells = link.snapshot?.cells ?? {};
  const stale = link.panel.content.widgets.filter(cell => cells[cell.model.id]?.state === 'stale');
  if (stale.length) {
    await NotebookActions.runCells(link.panel.content, stale, link.panel.sessionContext);
  }
}

/** Run the active cell again although its result is there: a further attempt, with replies of its own. */
async function recompute({ link, cell }: { link: Link; cell: Cell }): Promise<void> {
  await link.request('once', { cell: cell.model.id, how: 'recompute' });
  await NotebookActions.runCells(link.panel.content, [cell], link.panel.sessionContext);
}

/** Try a few rows of the active cell, and say what the others would cost. The cell and its result stay as they are. */
async function estimate({ link, cell }: { link: Link; cell: Cell }): Promise<void> {
  const kernel = link.panel.sessionContext.session?.kernel;
  if (!kernel) {
    return;
  }
  await link.request('once', { cell: cell.model.id, how: 'estimate' });
  const said: string[] = [];
  const future = kernel.requestExecute(
    { code: cell.model.sharedModel.getSource(), store_history: false, stop_on_error: false },
    true,
    { cellId: cell.model.id }
  );
  future.onIOPub = message => {
    if (KernelMessage.isStreamMsg(message)) {
      said.push(message.content.text);
    } else if (KernelMessage.isErrorMsg(message)) {
      said.push(message.content.evalue);
    }
  };
  await future.done;
  const body = new Widget();
  body.addClass('nbd-Estimate');
  body.node.textContent = said.join('').trim() || 'Everything is there already: it costs nothing.';
  await showDialog({ title: 'What the cell would cost', body, buttons: [Dialog.okButton({ label: 'Close' })] });
}

/** Stop what the active cell does; where it does nothing, all that runs here. */
async function stop(context: IContext): Promise<void> {
  const link = context.link();
  const works = link?.snapshot?.works ?? [];
  const own = works.filter(work => work.cell === context.tracker.activeCell?.model.id);
  await Promise.all((own.length ? own : works).map(work => link!.stop(work.id)));
}

/** Put the commands in, and into the palette. */
export function addCommands(context: IContext): void {
  const { commands } = context.app;
  const works = (): number => context.link()?.snapshot?.works.length ?? 0;
  const stale = (): boolean => Object.values(context.link()?.snapshot?.cells ?? {}).some(cell => cell.state === 'stale');
  commands.addCommand(OPEN, {
    label: 'Show nbdream Panel',
    caption: 'What runs, what there is, and what it cost',
    icon: dreamIcon,
    describedBy: NOTHING,
    isVisible: () => Boolean(context.link()?.snapshot),
    execute: () => context.openPanel()
  });
  commands.addCommand(RECOMPUTE, {
    label: 'Recompute This Cell',
    caption: 'Run the cell again although its result is there; what was made before is kept',
    describedBy: NOTHING,
    isEnabled: () => active(context) !== null,
    execute: () => recompute(active(context)!).catch(report)
  });
  commands.addCommand(RUN_STALE, {
    label: 'Run Stale Cells',
    caption: 'Run the cells whose results no longer follow from what they were made of',
    describedBy: NOTHING,
    isEnabled: stale,
    execute: () => runStale(context.link()!).catch(report)
  });
  commands.addCommand(ESTIMATE, {
    label: 'Estimate Cost of This Cell',
    caption: 'Try a few rows, and say what the others would cost',
    describedBy: NOTHING,
    isEnabled: () => active(context) !== null,
    execute: () => estimate(active(context)!).catch(report)
  });
  commands.addCommand(STOP, {
    label: 'Stop Work',
    caption: 'Stop what the active cell does, else all that runs here; what is done is kept',
    describedBy: NOTHING,
    isEnabled: () => works() > 0,
    execute: () => stop(context).catch(report)
  });
  for (const command of [OPEN, RECOMPUTE, RUN_STALE, ESTIMATE, STOP]) {
    context.palette?.addItem({ command, category: 'nbdream' });
  }
}
