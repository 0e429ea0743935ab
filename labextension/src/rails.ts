/** The graph of results beside their list: which column each result's line runs in, and the lines between them. */
import { INode } from './protocol';

export interface IRail {
  column: number;
  /** Lines that come in from results above: their column and row. */
  from: { column: number; row: number }[];
}

/** Columns that are drawn; what needs more shares the last one. */
const MOST = 6;

/**
 * A column for each result, in order: it goes on in the column of the first result it was made from whose line ends
 * with it, else in the first column in which nothing passes by.
 */
export function rails(nodes: readonly INode[]): IRail[] {
  const rowOf = new Map(nodes.map((node, row) => [node.name, row]));
  const above = nodes.map((node, row) =>
    node.above.map(name => rowOf.get(name)).filter((at): at is number => at !== undefined && at < row)
  );
  const lastUse = nodes.map((_, row) => row);
  above.forEach((rows, row) => rows.forEach(at => (lastUse[at] = Math.max(lastUse[at], row))));
  const busyUntil: number[] = [];
  const found: IRail[] = [];
  nodes.forEach((_, row) => {
    const parent = above[row].find(at => busyUntil[found[at].column] <= row);
    const free = busyUntil.findIndex(until => until < row);
    const column = parent !== undefined ? found[parent].column : Math.min(free < 0 ? busyUntil.length : free, MOST - 1);
    busyUntil[column] = Math.max(busyUntil[column] ?? 0, lastUse[row], row);
    found.push({ column, from: above[row].map(at => ({ column: found[at].column, row: at })) });
  });
  return found;
}
