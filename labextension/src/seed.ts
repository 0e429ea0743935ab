/** The seed in a cell: put in or changed as its author would write it, so that the notebook's text says what was made. */
import { bodyOf, magicLine } from './tokens.js';

/** The magics that ask a model or train one: a seed makes their result another. */
const SEEDED = ['generate', 'filter', 'rank', 'judge', 'evaluate', 'train'];
/** A seed among YAML keys, as a line of its own. */
const LINE = /^(seed[ \t]*:[ \t]*)("[^"]*"|'[^']*'|[^\s#]*)/;

/** The name of the result that a cell makes; empty where it has none. */
export function resultOf(source: string): string {
  return /^\s*%%\w+[ \t]+([A-Za-z_]\w*)/.exec(source)?.[1] ?? '';
}

/** Whether a cell's result depends on a seed. */
export function takesSeed(source: string): boolean {
  return SEEDED.includes(/^\s*%%(\w+)/.exec(source)?.[1] ?? '');
}

/** A cell's text with `seed`: in place of the one that it has, else as an option of its first line, or in the YAML of `%%train`. */
export function withSeed(source: string, seed: number): string {
  const lines = source.split('\n');
  const first = lines.findIndex(line => line.trim());
  const magic = lines[first];
  const training = /^%%train(\s|$)/.test(magic);
  const at = yamlLines(lines, first, bodyOf(magic) === 'yaml').find(number => LINE.test(lines[number]));
  if (at !== undefined) {
    lines[at] = lines[at].replace(LINE, (_, key: string) => `${key.trimEnd()} ${seed}`);
  } else if (training) {
    const last = lines.length - [...lines].reverse().findIndex(line => line.trim());
    lines.splice(last, 0, `seed: ${seed}`);
  } else {
    lines[first] = onLine(magic, seed);
  }
  return lines.join('\n');
}

/** The numbers of the lines that are YAML: all of the body, or those between two fences at its top. */
function yamlLines(lines: string[], first: number, whole: boolean): number[] {
  const from = first + 1;
  const ends = lines.findIndex((line, number) => number > from && line.trimEnd() === '---');
  const to = whole ? lines.length : lines[from]?.trimEnd() === '---' && ends > 0 ? ends : from;
  return Array.from({ length: Math.max(0, to - from) }, (_, offset) => from + offset);
}

function onLine(line: string, seed: number): string {
  const tokens = [...magicLine(line)];
  const comment = tokens.find(token => line.slice(token.from, token.to) === '#');
  const at = tokens.findIndex(token => token.kind === 'option' && line.slice(token.from, token.to) === '--seed');
  if (at < 0 || (comment && comment.from < tokens[at].from)) {
    const end = comment ? comment.from : line.trimEnd().length;
    const rest = line.slice(end).trimEnd();
    return `${line.slice(0, end).trimEnd()} --seed ${seed}${rest && ' '}${rest}`;
  }
  const { to } = tokens[at];
  const after = line[to] === '=' ? /^=\S*/.exec(line.slice(to)) : /^\s+[^\s-]\S*/.exec(line.slice(to));
  return `${line.slice(0, to)} ${seed}${line.slice(to + (after?.[0].length ?? 0))}`;
}
