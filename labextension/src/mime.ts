import { INotebookTracker } from '@jupyterlab/notebook';
import { IRenderMime } from '@jupyterlab/rendermime';
import { Widget } from '@lumino/widgets';
import { Message } from '@lumino/messaging';
import { annotate } from '../../nbdream/widgets/static/annotate.js';
import { curve } from '../../nbdream/widgets/static/curve.js';
import { lineage } from '../../nbdream/widgets/static/lineage.js';
import { table } from '../../nbdream/widgets/static/table.js';
import { Link } from './link';
import { jump } from './panel';

export const TABLE = 'application/vnd.nbdream.table+json';
export const ANNOTATE = 'application/vnd.nbdream.annotate+json';
export const LINEAGE = 'application/vnd.nbdream.lineage+json';
export const CURVE = 'application/vnd.nbdream.curve+json';
/** The version of what lies in a notebook that is read here. */
const VERSION = 1;

interface ISaved {
  version: number;
  name: string;
  [key: string]: any;
}

type Ask = (op: string, values: object) => Promise<any>;

/** What shows one kind of data: also in a saved notebook, and with a kernel that can be asked for more of it. */
interface IComponent {
  mime: string;
  /** The class of the output. */
  shown: string;
  /** Whether a kernel can be asked about it. */
  asks(data: ISaved): boolean;
  /** Build it, with or without a kernel that can be asked; `link` is there also where the kernel is gone. */
  build(node: HTMLElement, data: ISaved, ask: Ask | null, link: Link | null): IBuilt;
}

interface IBuilt {
  /** Take it down. */
  down(): void;
  /** What the kernel tells, or the notebook's cells, may have changed. */
  changed?(): void;
}

const COMPONENTS: IComponent[] = [
  {
    mime: TABLE,
    shown: 'nbd-Table',
    asks: data => Boolean(data.use),
    build: (node, data, ask) => {
      const of = { use: data.use, split: data.split ?? null, beside: data.beside ?? null };
      const way = (op: string) => (request: object) => ask!(op, { ...of, ...request });
      return { down: table(node, { first: data, note: data.note, changed: data.changed, ...(ask ? { page: way('page'), value: way('value') } : {}) }) };
    }
  },
  {
    mime: CURVE,
    shown: 'nbd-Curve',
    asks: () => false,
    build: (node, data) => curve(node, data)
  },
  {
    mime: LINEAGE,
    shown: 'nbd-Lineage',
    asks: () => false,
    build: (node, data, _, link) => {
      const source = (): object => ({
        left_out: data.left_out,
        nodes: data.nodes.map((drawn: { name: string; cell: string | null }) => {
          const told = link?.snapshot?.nodes.find(found => found.name === drawn.name && found.cell === drawn.cell);
          return { ...drawn, state: told?.state, reason: told?.reason };
        }),
        has: (cell: string) => (link?.indexOf(cell) ?? -1) >= 0,
        go: (cell: string) => jump(link!, cell)
      });
      const built = lineage(node, source());
      return { down: built.down, changed: () => built.update(source()) };
    }
  },
  {
    mime: ANNOTATE,
    shown: 'nbd-Annotation',
    asks: () => true,
    build: (node, data, ask) => {
      const of = { annotations: data.annotations };
      return { down: annotate(node, { data, ...(ask ? { ask: (op: string, values: object) => ask(op, { ...of, ...values }) } : {}) }) };
    }
  }
];

/** A component in an output: it is built anew when the kernel comes or goes. */
class Renderer extends Widget implements IRenderMime.IRenderer {
  constructor(private _component: IComponent, private _find: (node: Node) => Link | null) {
    super();
    this.addClass(this._component.shown);
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    this._data = model.data[this._component.mime] as unknown as ISaved;
    this._draw();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    this._link = this._find(this.node);
    this._link?.changed.connect(this._onLink, this);
    this._onLink();
  }

  protected override onBeforeDetach(message: Message): void {
    this._link?.changed.disconnect(this._onLink, this);
    this._link = null;
    super.onBeforeDetach(message);
  }

  override dispose(): void {
    this._built?.down();
    this._built = null;
    super.dispose();
  }

  private _onLink(): void {
    if (this._data && (this._canAsk(this._data) !== this._asks || this._link !== this._drawn)) {
      this._draw();
    } else {
      this._built?.changed?.();
    }
  }

  private _canAsk(data: ISaved): boolean {
    return Boolean(this._link?.alive) && this._component.asks(data);
  }

  private _draw(): void {
    const data = this._data;
    if (!data) {
      return;
    }
    this._built?.down();
    this._built = null;
    this.node.replaceChildren();
    if (data.version !== VERSION) {
      this.node.textContent = `${data.name}: made by another version of nbdream; run the cell again to see it here`;
      return;
    }
    const link = this._link;
    const ask: Ask = (op, values) => link!.request(op, values).catch((error: Error) => ({ error: error.message }));
    this._asks = this._canAsk(data);
    this._drawn = link;
    this._built = this._component.build(this.node, data, this._asks ? ask : null, link);
  }

  private _data: ISaved | null = null;
  private _link: Link | null = null;
  private _asks = false;
  private _drawn: Link | null = null;
  private _built: IBuilt | null = null;
}

/** Renderers of what nbdream puts into notebooks. */
export function factories(tracker: INotebookTracker, linkOf: (id: string) => Link | null): IRenderMime.IRendererFactory[] {
  const find = (node: Node): Link | null => {
    const panel = tracker.find(found => found.node.contains(node));
    return panel ? linkOf(panel.id) : null;
  };
  return COMPONENTS.map(component => ({
    safe: true,
    mimeTypes: [component.mime],
    createRenderer: () => new Renderer(component, find)
  }));
}
