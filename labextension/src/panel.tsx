import { INotebookTracker, NotebookActions, NotebookPanel } from '@jupyterlab/notebook';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import { ISignal, Signal } from '@lumino/signaling';
import * as React from 'react';
import { lineage } from '../../nbdream/widgets/static/lineage.js';
import { dreamIcon } from './icons';
import { Link } from './link';
import { ICell, INode, ISnapshot, IWork } from './protocol';
import { count, details, percent, rows } from './words';

export interface IActions {
  /** The way to the kernel of the notebook that is shown. */
  link(): Link | null;
  runStale(): void;
  report(error: unknown): void;
}

/** The side panel: what the notebook in front does and has. */
export class DreamPanel extends ReactWidget {
  constructor(tracker: INotebookTracker, private _actions: IActions) {
    super();
    this.id = 'nbdream-panel';
    this.title.icon = dreamIcon;
    this.title.caption = 'nbdream';
    this.addClass('nbd-Panel');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', 'nbdream');
    tracker.currentChanged.connect(() => this._moved.emit());
  }

  /** Have the panel show where things stand. */
  refresh(): void {
    this._moved.emit();
  }

  get moved(): ISignal<this, void> {
    return this._moved;
  }

  protected override render(): React.ReactElement {
    return (
      <UseSignal signal={this._moved}>
        {() => {
          const link = this._actions.link();
          return link ? <Notebook key={link.panel.id} link={link} actions={this._actions} /> : <Empty />;
        }}
      </UseSignal>
    );
  }

  private _moved = new Signal<this, void>(this);
}

function Empty(): React.ReactElement {
  return (
    <div className="nbd-Empty">
      <dreamIcon.react tag="span" width="32px" />
      <p>Open a notebook that uses nbdream, and run its first cells.</p>
      <pre>%load_ext nbdream</pre>
    </div>
  );
}

function Notebook({ link, actions }: { link: Link; actions: IActions }): React.ReactElement {
  return (
    <UseSignal signal={link.changed}>
      {() => {
        const told = link.snapshot;
        if (!told) {
          return <Empty />;
        }
        return (
          <>
            <Head told={told} link={link} />
            {link.silence && (
              <p className="nbd-Silence" role="status">
                {link.silence}
              </p>
            )}
            <Works told={told} link={link} actions={actions} />
            <Stale told={told} link={link} actions={actions} />
            <Ended told={told} link={link} />
            <Graph told={told} link={link} />
            <Results told={told} link={link} actions={actions} />
          </>
        );
      }}
    </UseSignal>
  );
}

function Head({ told, link }: { told: ISnapshot; link: Link }): React.ReactElement {
  const share = told.share ?? null;
  return (
    <header className="nbd-Head">
      <h2 title={link.panel.context.path}>{told.session ?? 'no session yet'}</h2>
      {told.spend !== null && (
        <div className="nbd-Spend" title="What the stored replies cost, by the price on the day of each call">
          <span className="nbd-Spend-amount">{told.spend}</span>
          <span> spent{told.budget ? ` of ${told.budget}` : ''}</span>
          {share !== null && (
            <span
              className={`nbd-Bar${share > 0.9 ? ' nbd-mod-warn' : ''}`}
              role="progressbar"
              aria-label="budget spent"
              aria-valuemin={0}
              aria-valuemax={100}
              aria-valuenow={Math.round(100 * share)}
            >
              <span style={{ width: `${Math.min(100, 100 * share)}%` }} />
            </span>
          )}
        </div>
      )}
    </header>
  );
}

function Works({ told, link, actions }: { told: ISnapshot; link: Link; actions: IActions }): React.ReactElement | null {
  if (!told.works.length) {
    return null;
  }
  return (
    <section aria-label="Running">
      <h3>Running</h3>
      <ul className="nbd-Works">
        {told.works.map(work => (
          <Work key={work.id} work={work} link={link} actions={actions} />
        ))}
      </ul>
    </section>
  );
}

function Work({ work, link, actions }: { work: IWork; link: Link; actions: IActions }): React.ReactElement {
  const done = percent(work);
  const [asked, ask] = React.useState(false);
  return (
    <li className="nbd-Work">
      <div className="nbd-Work-head">
        <Name name={work.name} cell={work.cell} link={link} />
        <span className="nbd-Work-percent">{done === null ? '' : `${done} %`}</span>
        <button
          type="button"
          className="nbd-Button"
          disabled={!work.stoppable || asked}
          aria-label={`Stop ${work.name}`}
          onClick={() => {
            ask(true);
            link.stop(work.id).catch(error => {
              ask(false);
              actions.report(error);
            });
          }}
        >
          {work.stoppable && !asked ? 'Stop' : 'Stopping…'}
        </button>
      </div>
      <span
        className={`nbd-Bar${done === null ? ' nbd-mod-unknown' : ''}`}
        role="progressbar"
        aria-label={work.name}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={done ?? undefined}
      >
        <span style={{ width: `${done ?? 0}%` }} />
      </span>
      <div className="nbd-Work-details">{details(work)}</div>
    </li>
  );
}

function Stale({ told, link, actions }: { told: ISnapshot; link: Link; actions: IActions }): React.ReactElement | null {
  const stale = here(told, link, ['stale']);
  if (!stale.length) {
    return null;
  }
  return (
    <section aria-label="Stale">
      <h3>
        Stale
        <button type="button" className="nbd-Button" onClick={() => actions.runStale()}>
          Run stale cells
        </button>
      </h3>
      <ul className="nbd-Stale">
        {stale.map(([id, cell]) => (
          <li key={id}>
            <Name name={cell.name} cell={id} link={link} />
            <span className="nbd-Reason">{cell.reason}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** What failed or was stopped, with what it said. */
function Ended({ told, link }: { told: ISnapshot; link: Link }): React.ReactElement | null {
  const ended = here(told, link, ['failed', 'stopped']);
  if (!ended.length) {
    return null;
  }
  return (
    <section aria-label="Failed">
      <h3>{ended.some(([, cell]) => cell.state === 'failed') ? 'Failed' : 'Stopped'}</h3>
      <ul className="nbd-Stale">
        {ended.map(([id, cell]) => (
          <li key={id} data-state={cell.state}>
            <Name name={cell.name || 'a cell'} cell={id} link={link} />
            <span className="nbd-Reason">{cell.reason}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** The cells of this notebook that are in one of some states, in its order. */
function here(told: ISnapshot, link: Link, states: string[]): [string, ICell][] {
  const found = Object.entries(told.cells).filter(([id, cell]) => states.includes(cell.state) && link.indexOf(id) >= 0);
  return found.sort(([one], [other]) => link.indexOf(one) - link.indexOf(other));
}

/** What comes from what: the same as `%dream lineage`, of where things stand now. */
function Graph({ told, link }: { told: ISnapshot; link: Link }): React.ReactElement | null {
  const place = React.useRef<HTMLDivElement>(null);
  const shown = React.useRef<ReturnType<typeof lineage> | null>(null);
  const drawn = told.nodes.some(node => node.above.length > 0);
  React.useEffect(() => {
    if (!drawn || !place.current) {
      return undefined;
    }
    const built = (shown.current = lineage(place.current, { nodes: [] }));
    return () => {
      shown.current = null;
      built.down();
    };
  }, [drawn]);
  React.useEffect(() => {
    const number = new Map(told.nodes.map((node, at) => [node.name, at]));
    const nodes = told.nodes.map((node, at) => ({
      name: node.name,
      kind: node.kind,
      detail: sizes(node).join(' · '),
      title: '',
      cell: node.cell,
      above: node.above.map(name => number.get(name)).filter((above): above is number => above !== undefined && above < at),
      state: node.state,
      reason: node.reason
    }));
    shown.current?.update({ nodes, has: (cell: string) => link.indexOf(cell) >= 0, go: (cell: string) => jump(link, cell) });
  });
  return drawn ? (
    <section aria-label="Lineage">
      <h3>Lineage</h3>
      <div ref={place} />
    </section>
  ) : null;
}

function Results({ told, link, actions }: { told: ISnapshot; link: Link; actions: IActions }): React.ReactElement {
  return (
    <section aria-label="Results">
      <h3>Results</h3>
      {!told.nodes.length && <p className="nbd-None">None yet.</p>}
      {told.left_out > 0 && <p className="nbd-None">{count(told.left_out)} earlier ones: %dream status</p>}
      <ul className="nbd-Results">
        {told.nodes.map(node => (
          <Result key={node.name} node={node} link={link} actions={actions} />
        ))}
      </ul>
    </section>
  );
}

/** How large a result is, and what it cost. */
function sizes(node: INode): string[] {
  return [
    node.kind === 'model' ? 'model' : node.rows === null ? '' : rows(node.rows),
    node.failed ? `${count(node.failed)} failed` : '',
    node.cost ?? ''
  ].filter(Boolean);
}

function Result({ node, link, actions }: { node: INode; link: Link; actions: IActions }): React.ReactElement {
  const state = node.state === 'fresh' ? '' : node.state;
  return (
    <li className="nbd-Result" data-state={node.state}>
      <div className="nbd-Result-head">
        <Name name={node.name} cell={node.cell} link={link} />
        <span className="nbd-Result-actions">
          <Verb verb="card" node={node} link={link} actions={actions} label="Card" run={true} />
          <Verb verb="publish" node={node} link={link} actions={actions} label="Publish" run={false} />
        </span>
      </div>
      <div className="nbd-Result-details" title={node.reason || undefined}>
        {state && <span className={`nbd-State nbd-is-${node.state}`}>{state}</span>}
        {sizes(node).join(' · ')}
      </div>
    </li>
  );
}

/** A button that inserts the cell that does it: what publishes is a cell that the user runs. */
function Verb(props: { verb: string; label: string; node: INode; link: Link; actions: IActions; run: boolean }): React.ReactElement | null {
  const { verb, label, node, link, run } = props;
  if (!/^[A-Za-z_]\w*$/.test(node.name)) {
    return null;
  }
  return (
    <button
      type="button"
      className="nbd-Link"
      aria-label={`${label} of ${node.name}`}
      title={run ? `Insert and run: %dream ${verb} ${node.name}` : `Insert: %dream ${verb} ${node.name} …`}
      onClick={() => {
        const cell = insert(link.panel, node.cell, `%dream ${verb} ${node.name}${run ? '' : ' ./published'}`);
        if (run && cell) {
          void NotebookActions.run(link.panel.content, link.panel.sessionContext);
        }
      }}
    >
      {label}
    </button>
  );
}

/** Insert a cell below another one, or at the end, and make it the active one. */
function insert(panel: NotebookPanel, below: string | null, source: string): boolean {
  const notebook = panel.content;
  const at = notebook.widgets.findIndex(cell => cell.model.id === below);
  notebook.activeCellIndex = at < 0 ? notebook.widgets.length - 1 : at;
  NotebookActions.insertBelow(notebook);
  const cell = notebook.activeCell;
  cell?.model.sharedModel.setSource(source);
  if (cell) {
    void notebook.scrollToCell(cell);
  }
  return Boolean(cell);
}

/** A name; where its cell is in the notebook, a button that goes there. */
function Name({ name, cell, link }: { name: string; cell: string | null; link: Link }): React.ReactElement {
  if (link.indexOf(cell) < 0) {
    return (
      <span className="nbd-Name nbd-mod-elsewhere" title={`${name}: its cell is not in this notebook`}>
        {name}
      </span>
    );
  }
  return (
    <button type="button" className="nbd-Name" title={`Go to the cell of ${name}`} onClick={() => jump(link, cell)}>
      {name}
    </button>
  );
}

/** Bring a cell into view and make it the active one. */
export function jump(link: Link, cell: string | null): void {
  const notebook = link.panel.content;
  const at = link.indexOf(cell);
  if (at >= 0) {
    notebook.deselectAll();
    notebook.activeCellIndex = at;
    void notebook.scrollToCell(notebook.widgets[at], 'start');
  }
}
