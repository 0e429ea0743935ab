import { CodeCell } from '@jupyterlab/cells';
import { IOutput } from '@jupyterlab/nbformat';
import { NotebookActions } from '@jupyterlab/notebook';
import { Link } from './link';
import { LIVE } from './live';
import { isOurs } from './protocol';

interface IShown {
  outputs: IOutput[];
  execution_count: number | null;
}

/**
 * Brings into the notebook what its cells showed while no page was there: a page that is reloaded in the middle of a cell
 * gets none of the cell's output any more. The kernel has it; nothing is run for it.
 */
export class CatchUp {
  constructor(private _link: Link) {
    _link.changed.connect(this._look, this);
    NotebookActions.executionScheduled.connect(this._onScheduled, this);
    _link.panel.disposed.connect(() => NotebookActions.executionScheduled.disconnect(this._onScheduled, this));
  }

  /** A cell that this page runs shows its output by itself. */
  private _onScheduled(_: unknown, { cell }: { cell: { model: { id: string } } }): void {
    this._own.add(cell.model.id);
  }

  private _look(): void {
    const { snapshot, panel, alive } = this._link;
    if (!snapshot || !alive || panel.isDisposed) {
      return;
    }
    for (const cell of panel.content.widgets) {
      const id = cell.model.id;
      const told = snapshot.cells[id];
      const over = told && told.state !== 'running' && snapshot.executing !== id;
      if (over && !this._own.has(id) && cell instanceof CodeCell && isOurs(cell.model.sharedModel.getSource()) && lacks(cell)) {
        this._own.add(id);
        this._fetch(cell).catch(error => {
          this._own.delete(id); // the comm may be opened anew, and then it is asked for again
          console.debug('nbdream: the output is not there', error);
        });
      }
    }
  }

  private async _fetch(cell: CodeCell): Promise<void> {
    const { outputs, execution_count } = (await this._link.request('outputs', { cell: cell.model.id })) as IShown;
    if (execution_count !== null && !cell.isDisposed && lacks(cell)) {
      cell.model.outputs.fromJSON(outputs);
      cell.model.executionCount = execution_count;
    }
  }

  private _own = new Set<string>();
}

/** Whether a cell shows nothing, or what was live when the page was last saved. */
function lacks(cell: CodeCell): boolean {
  const outputs = cell.model.outputs.toJSON() as { data?: { [type: string]: unknown } }[];
  return outputs.every(output => output.data && LIVE in output.data);
}
