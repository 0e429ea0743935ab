import { JupyterFrontEnd } from '@jupyterlab/application';
import { Dialog, ICommandPalette, Notification, showDialog } from '@jupyterlab/apputils';
import { Cell } from '@jupyterlab/cells';
import { INotebookTracker, NotebookActions } from '@jupyterlab/notebook';
import { KernelMessage } from '@jupyterlab/services';
import { Widget } from '@lumino/widgets';
import { dreamIcon } from './icons';
import { Link } from './link';
import { ICell, isOurs } from './protocol';
import { resultOf, takesSeed, withSeed } from './seed';

export const OPEN = 'nbdream:open';
export const RECOMPUTE = 'nbdream:recompute';
export const RETRY = 'nbdream:retry-failed';
export const RESEED = 'nbdream:recompute-with-new-seed';
export const RUN_STALE = 'nbdream:run-stale';
export const ESTIMATE = 'nbdream:estimate';
export const STOP = 'nbdream:stop';
export const ALL = [OPEN, RECOMPUTE, RETRY, RESEED, RUN_STALE, ESTIMATE, STOP];
/** What is done about one cell: in its menu. */
export const OF_CELL = [RECOMPUTE, RETRY, RESEED, ESTIMATE];

const NOTHING = { args: { type: 'object' as const, properties: {}, additionalProperties: false } };

const CLICKED = { type: 'boolean' as const, description: 'Of the cell whose context menu is open, not of the active one' };
const OF_A_CELL = { args: { type: 'object' as const, properties: { clicked: CLICKED }, additionalProperties: false } };

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

interface IActive {
  link: Link;
  cell: Cell;
  source: string;
  /** How it stands, where the kernel has told. */
  told?: ICell;
}

/** The active cell, or the one whose context menu is open; when it is one of ours and its kernel can be asked. */
function active(context: IContext, clicked = false): IActive | null {
  const link = context.link();
  const node = clicked ? context.app.contextMenuHitTest(found => found.classList.contains('jp-Cell')) : undefined;
  const cell = clicked ? link?.panel.content.widgets.find(found => found.node === node) : context.tracker.activeCell;
  const source = cell?.model.sharedModel.getSource() ?? '';
  return link?.alive && cell && isOurs(source) ? { link, cell, source, told: link.snapshot?.cells[cell.model.id] } : null;
}

/** Run the cells whose results are stale, and the Python between them and what has changed, in the notebook's order. */
export async function runStale(link: Link): Promise<void> {
  await link.tellSources();
  const stale = new Set((await link.request('stale')) as string[]);
  const cells = link.panel.content.widgets.filter(cell => stale.has(cell.model.id));
  if (cells.length) {
    await NotebookActions.runCells(link.panel.content, cells, link.panel.sessionContext);
  }
}

/** Run a cell again although its result is there: a further attempt, of all of it or of the rows that failed. */
async function again({ link, cell }: IActive, how: 'recompute' | 'retry'): Promise<void> {
  await link.request('once', { cell: cell.model.id, how });
  await NotebookActions.runCells(link.panel.content, [cell], link.panel.sessionContext);
}

/** Give a cell a seed that its result never had, in its text, and run it. */
async function reseed({ link, cell }: IActive): Promise<void> {
  const shared = cell.model.sharedModel;
  const seed = (await link.request('seed', { name: resultOf(shared.getSource()) })) as number;
  shared.setSource(withSeed(shared.getSource(), seed));
  await NotebookActions.runCells(link.panel.content, [cell], link.panel.sessionContext);
}

/** Try a few rows of the active cell, and say what the others would cost. The cell and its result stay as they are. */
async function estimate({ link, cell }: IActive): Promise<void> {
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
  const ofCell = (id: string, label: string, caption: string, fits: (cell: IActive) => boolean, act: (cell: IActive) => Promise<void>): void => {
    const fitting = (clicked: boolean): IActive | null => {
      const cell = active(context, clicked);
      return cell && cell.told?.state !== 'running' && fits(cell) ? cell : null;
    };
    commands.addCommand(id, {
      label,
      caption,
      describedBy: OF_A_CELL,
      isEnabled: args => fitting(Boolean(args.clicked)) !== null,
      isVisible: args => active(context, Boolean(args.clicked)) !== null,
      execute: args => {
        const cell = fitting(Boolean(args.clicked));
        return cell ? act(cell).catch(report) : report(new Error('the kernel has told of no result of this cell that it could be done to'));
      }
    });
  };
  const made = ({ told, source }: IActive): boolean => Boolean(told && told.state !== 'unknown') && !/^\s*%%annotate/.test(source);
  ofCell(
    RECOMPUTE,
    'Recompute This Cell',
    'Run the cell again although its result is there; what was made before is kept',
    made,
    cell => again(cell, 'recompute')
  );
  ofCell(
    RETRY,
    'Retry Failed Rows',
    'Ask again for the rows of this cell that failed, and for no other',
    cell => made(cell) && Boolean(cell.told!.failed),
    cell => again(cell, 'retry')
  );
  ofCell(
    RESEED,
    'Recompute with a New Seed',
    'Write a seed into the cell that its result never had, and run it',
    cell => made(cell) && takesSeed(cell.source),
    reseed
  );
  commands.addCommand(RUN_STALE, {
    label: 'Run Stale Cells',
    caption: 'Run the cells whose results no longer follow from what they were made of',
    describedBy: NOTHING,
    isEnabled: stale,
    execute: () => runStale(context.link()!).catch(report)
  });
  ofCell(ESTIMATE, 'Estimate Cost of This Cell', 'Try a few rows, and say what the others would cost', () => true, estimate);
  commands.addCommand(STOP, {
    label: 'Stop Work',
    caption: 'Stop what the active cell does, else all that runs here; what is done is kept',
    describedBy: NOTHING,
    isEnabled: () => works() > 0,
    execute: () => stop(context).catch(report)
  });
  for (const command of ALL) {
    context.palette?.addItem({ command, category: 'nbdream' });
  }
}
