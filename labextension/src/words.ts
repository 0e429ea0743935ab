/** Numbers and states as a person reads them. */
import { ICell, IWork } from './protocol';

export function count(value: number): string {
  return value.toLocaleString('en-US');
}

export function rows(value: number): string {
  return `${count(value)} row${value === 1 ? '' : 's'}`;
}

/** A duration, in at most two units. */
export function duration(seconds: number): string {
  const whole = Math.max(1, Math.round(seconds));
  if (whole < 60) {
    return `${whole} s`;
  }
  if (whole < 3600) {
    return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  }
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** How far work is, in whole per cent; null where nobody knows. */
export function percent(work: IWork): number | null {
  return work.total ? Math.min(100, Math.floor((100 * work.done) / work.total)) : null;
}

/** What is said below work: how much is done, how fast, what it costs. */
export function details(work: IWork): string {
  const training = work.kind === 'training';
  const parts: string[] = [];
  if (training) {
    parts.push(work.state);
  } else if (work.state !== 'running') {
    parts.push(work.state);
  }
  if (work.total && work.kind !== 'step') {
    parts.push(`${training ? 'step ' : ''}${count(work.done)} of ${count(work.total)}`);
  }
  if (typeof work.loss === 'number') {
    parts.push(`loss ${work.loss.toPrecision(3)}`);
  }
  if (typeof work.eval_loss === 'number') {
    parts.push(`eval loss ${work.eval_loss.toPrecision(3)}`);
  }
  if (work.cached) {
    parts.push(`${count(work.cached)} cached`);
  }
  if (work.failed) {
    parts.push(`${count(work.failed)} failed`);
  }
  if (work.rate) {
    parts.push(`${work.rate >= 10 ? count(Math.round(work.rate)) : work.rate.toFixed(1)}/s`);
  }
  if (work.eta) {
    parts.push(`${duration(work.eta)} left`);
  }
  if (work.cost) {
    parts.push(work.cost);
  }
  return parts.join(' · ');
}

/** The one word for a cell. */
export function stateWord(cell: ICell, work?: IWork): string {
  if (cell.state === 'running') {
    const done = work ? percent(work) : null;
    return done === null ? 'running' : `running ${done} %`;
  }
  if (cell.state === 'fresh' && cell.cached) {
    return 'cached';
  }
  return cell.state;
}

/** What stands beside it. */
export function cellDetails(cell: ICell, work?: IWork): string {
  if (cell.state === 'running') {
    return work ? details(work) : '';
  }
  const parts: string[] = [];
  if (cell.state !== 'fresh' && cell.reason) {
    parts.push(cell.reason);
  }
  if (cell.state !== 'failed' && cell.state !== 'stopped') {
    if (typeof cell.rows === 'number') {
      parts.push(rows(cell.rows));
    } else if (cell.kind === 'model') {
      parts.push('model');
    }
    if (cell.cost) {
      parts.push(cell.cached ? `cost ${cell.cost} before` : cell.cost);
    }
  }
  return parts.join(' · ');
}
