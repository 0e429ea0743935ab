import { JupyterFrontEnd } from '@jupyterlab/application';
import { Cell, CodeCell } from '@jupyterlab/cells';
import { Menu, PanelLayout, Widget } from '@lumino/widgets';
import { OF_CELL } from './commands';
import { Link } from './link';
import { ICell, isOurs, IWork } from './protocol';
import { cellDetails, count, percent, stateWord } from './words';

/** The line below a cell that says how it stands. */
class Badge extends Widget {
  constructor(private _stop: (work: string) => void, menu: (at: DOMRect) => void) {
    super();
    this.addClass('nbd-Badge');
    this._dot.className = 'nbd-Dot';
    this._dot.setAttribute('aria-hidden', 'true');
    this._word.className = 'nbd-Badge-word';
    this._failed.className = 'nbd-Badge-failed';
    this._bar.className = 'nbd-Bar';
    this._bar.setAttribute('role', 'progressbar');
    this._bar.setAttribute('aria-valuemin', '0');
    this._bar.setAttribute('aria-valuemax', '100');
    this._bar.appendChild(this._fill);
    this._details.className = 'nbd-Badge-details';
    this._button.className = 'nbd-Button';
    this._button.type = 'button';
    this._button.addEventListener('click', () => {
      this._button.disabled = true;
      this._button.textContent = 'Stopping…';
      this._stop(this._work);
    });
    this._more.className = 'nbd-Badge-more';
    this._more.type = 'button';
    this._more.title = 'Recompute …';
    this._more.setAttribute('aria-haspopup', 'menu');
    this._more.addEventListener('click', () => menu(this._more.getBoundingClientRect()));
    this.node.append(this._dot, this._word, this._failed, this._bar, this._details, this._button, this._more);
  }

  /** Show how the cell stands. */
  show_(cell: ICell, work: IWork | undefined, silence: string, brief: boolean): void {
    const key = JSON.stringify([cell, work, silence, brief]);
    if (key === this._shown) {
      return;
    }
    this._shown = key;
    const running = cell.state === 'running';
    const done = work ? percent(work) : null;
    this.node.dataset.state = silence && !running ? 'unknown' : cell.state;
    this.node.title = silence;
    this._word.textContent = stateWord(cell, work);
    this._failed.textContent = cell.state !== 'running' && cell.failed ? `${count(cell.failed)} failed` : '';
    this._failed.hidden = !this._failed.textContent;
    this._bar.hidden = !running || brief;
    this._bar.classList.toggle('nbd-mod-unknown', done === null);
    this._bar.setAttribute('aria-label', cell.name);
    if (done === null) {
      this._bar.removeAttribute('aria-valuenow');
    } else {
      this._bar.setAttribute('aria-valuenow', String(done));
    }
    this._fill.style.width = `${done ?? 0}%`;
    this._details.textContent = brief ? '' : cellDetails(cell, work);
    this._details.title = this._details.textContent;
    this._more.hidden = running;
    this._more.setAttribute('aria-label', `What can be done about ${cell.name}`);
    this._button.hidden = !running || !work || brief;
    if (work) {
      this._work = work.id;
      this._button.disabled = !work.stoppable;
      this._button.textContent = work.stoppable ? 'Stop' : 'Stopping…';
      this._button.setAttribute('aria-label', `Stop ${cell.name}`);
    }
  }

  private _shown = '';
  private _work = '';
  private _dot = document.createElement('span');
  private _word = document.createElement('span');
  private _failed = document.createElement('span');
  private _bar = document.createElement('span');
  private _fill = document.createElement('span');
  private _details = document.createElement('span');
  private _button = document.createElement('button');
  private _more = document.createElement('button');
}

/** The badges of one notebook. They are widgets of the page: nothing of them is in the document. */
export class Badges {
  constructor(private _link: Link, private _commands: JupyterFrontEnd['commands']) {
    _link.changed.connect(this.refresh, this);
    _link.panel.content.modelContentChanged.connect(this._later, this);
  }

  /** Whether they are shown. */
  set enabled(value: boolean) {
    this._enabled = value;
    this.refresh();
  }

  /** Bring every cell's badge to where the cell stands. */
  refresh(): void {
    const snapshot = this._link.snapshot;
    if (this._link.isDisposed || (!snapshot && !this._any)) {
      return;
    }
    for (const cell of this._link.panel.content.widgets) {
      const told = this._enabled && cell instanceof CodeCell ? snapshot?.cells[cell.model.id] : undefined;
      if (told && isOurs(cell.model.sharedModel.getSource())) {
        this._show(cell, told, snapshot!.works.find(work => work.id === told.work));
      } else {
        this._badges.get(cell)?.dispose();
        this._badges.delete(cell);
      }
    }
  }

  private _show(cell: Cell, told: ICell, work: IWork | undefined): void {
    let badge = this._badges.get(cell);
    if (!badge || badge.isDisposed) {
      if (cell.isPlaceholder()) {
        if (!this._awaited.has(cell)) {
          this._awaited.add(cell);
          cell.ready.then(() => this.refresh(), () => undefined);
        }
        return;
      }
      badge = new Badge(
        id => {
          this._link.stop(id).catch(error => console.debug('nbdream: not stopped', error));
        },
        at => this._open(cell, at)
      );
      this._badges.set(cell, badge);
      this._any = true;
      const layout = cell.layout as PanelLayout;
      layout.insertWidget(layout.widgets.length - 1, badge); // below the outputs, above the footer
    }
    // While the output itself shows how far it is, with a button to stop, the badge does not say it again.
    const brief = told.state === 'running' && (cell as CodeCell).outputArea.node.querySelector('.jp-OutputArea-output button') !== null;
    badge.show_(told, work, this._link.silence, brief);
  }

  /** The menu of a cell, below its button. */
  private _open(cell: Cell, at: DOMRect): void {
    const notebook = this._link.panel.content;
    notebook.deselectAll();
    notebook.activeCellIndex = notebook.widgets.indexOf(cell);
    const menu = new Menu({ commands: this._commands });
    OF_CELL.forEach(command => menu.addItem({ command }));
    menu.aboutToClose.connect(() => window.setTimeout(() => menu.dispose()));
    menu.open(at.left, at.bottom);
  }

  private _later(): void {
    if (!this._asked && this._link.snapshot) {
      this._asked = requestAnimationFrame(() => {
        this._asked = 0;
        this.refresh();
      });
    }
  }

  private _badges = new WeakMap<Cell, Badge>();
  private _awaited = new WeakSet<Cell>();
  private _enabled = true;
  private _any = false;
  private _asked = 0;
}
