/** What the kernel tells and what it may be asked: the other end is nbdream/magics/bridge.py. */

/** The comm's target, and the id under which the kernel broadcasts. */
export const TARGET = 'nbdream';

/** Work that runs: a step of this kernel, or a training run. */
export interface IWork {
  id: string;
  name: string;
  cell: string | null;
  kind: string;
  state: string;
  done: number;
  total: number | null;
  cached?: number | null;
  new?: number | null;
  failed?: number | null;
  rate?: number | null;
  eta?: number | null;
  cost?: string | null;
  saved?: string | null;
  loss?: number | null;
  eval_loss?: number | null;
  stoppable: boolean;
}

/** How a cell stands. */
export interface ICell {
  name: string;
  state: 'fresh' | 'stale' | 'unknown' | 'running' | 'failed' | 'stopped';
  reason?: string;
  kind?: 'rows' | 'model';
  rows?: number | null;
  failed?: number;
  cached?: boolean;
  cost?: string | null;
  work?: string;
}

/** A result, and the names that it was made from. */
export interface INode {
  name: string;
  kind: 'rows' | 'model';
  state: ICell['state'];
  reason: string;
  cell: string | null;
  rows: number | null;
  failed: number;
  cost: string | null;
  above: string[];
}

/** Where everything stands. */
export interface ISnapshot {
  session: string | null;
  executing: string | null;
  works: IWork[];
  cells: { [id: string]: ICell };
  nodes: INode[];
  /** The cells of plain Python between results, by id. */
  between: string[];
  spend: string | null;
  budget: string | null;
  share?: number | null;
  left_out: number;
}

export interface IAnswer {
  op: string;
  id: string;
  result?: any;
  error?: string;
}

/** The cell magics whose cells are ours. */
export const FIRST_LINE = /^%%(generate|filter|rank|judge|map|train|evaluate|annotate)(?=\s|$)/;

/** Whether a cell's text begins with one of our cell magics. */
export function isOurs(source: string): boolean {
  return FIRST_LINE.test(source.trimStart());
}

/** Whether a cell's text loads or uses nbdream. */
export function mentions(source: string): boolean {
  return /\bnbdream\b/.test(source) || isOurs(source) || /^\s*%dream\b/m.test(source);
}

/** Whether a cell's text loads nbdream into the kernel. */
export function loads(source: string): boolean {
  return /^\s*%(re)?load_ext\s+nbdream\b/m.test(source);
}

const TABLE = Uint32Array.from({ length: 256 }, (_, at) => {
  let value = at;
  for (let bit = 0; bit < 8; bit++) {
    value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  }
  return value;
});

/** A cell's text in short, as the kernel computes it too. */
export function sourceDigest(source: string): string {
  const data = new TextEncoder().encode(source);
  let value = 0xffffffff;
  for (const byte of data) {
    value = (value >>> 8) ^ TABLE[(value ^ byte) & 0xff];
  }
  return `${data.length}-${((value ^ 0xffffffff) >>> 0).toString(16).padStart(8, '0')}`;
}
