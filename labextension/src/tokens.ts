/** What is what in the cells of our magics: prose with a template in it, or YAML. Line by line, without a grammar. */

export type Kind =
  | 'magic' | 'name' | 'option' | 'value' | 'string' | 'number' | 'atom' | 'key' | 'comment' | 'mark' | 'brace' | 'variable' | 'keyword';

export interface IToken {
  from: number;
  to: number;
  kind: Kind;
}

export type Body = 'template' | 'yaml' | 'python';

/** What the body of each magic is. */
const BODIES: { [magic: string]: Body } = {
  generate: 'template',
  filter: 'template',
  rank: 'template',
  judge: 'template',
  map: 'python',
  train: 'yaml',
  evaluate: 'yaml',
  annotate: 'yaml'
};

const MAGIC = /^%%(\w+)/;

/** What the body of a cell is, by its first line; null when it is none of ours. */
export function bodyOf(firstLine: string): Body | null {
  const found = MAGIC.exec(firstLine);
  return (found && BODIES[found[1]]) ?? null;
}

function* matches(pattern: RegExp, text: string): Generator<RegExpExecArray> {
  pattern.lastIndex = 0;
  for (let found = pattern.exec(text); found; found = pattern.exec(text)) {
    yield found;
  }
}

/** The magic's own line: `%%generate NAME << --option value`. */
export function* magicLine(text: string): Generator<IToken> {
  const magic = MAGIC.exec(text);
  if (!magic) {
    return;
  }
  yield { from: 0, to: magic[0].length, kind: 'magic' };
  let named = false;
  for (const found of matches(/("[^"]*"?|'[^']*'?|\S+)/g, text)) {
    const [from, to, word] = [found.index, found.index + found[0].length, found[0]];
    if (from < magic[0].length) {
      continue;
    }
    if (/^--?[A-Za-z]/.test(word)) {
      const equals = word.indexOf('=');
      yield { from, to: equals < 0 ? to : from + equals, kind: 'option' };
      named = true;
    } else if (word === '<<') {
      yield { from, to, kind: 'mark' };
    } else if (!named) {
      yield { from, to, kind: 'name' };
      named = true;
    } else {
      yield { from, to, kind: /^["']/.test(word) ? 'string' : /^-?[\d.]+(e-?\d+)?$/i.test(word) ? 'number' : 'value' };
    }
  }
}

const YAML_SCALAR =
  /("(?:[^"\\]|\\.)*"?|'(?:[^']|'')*'?)|(?:^|[\s[,{:])(-?\d[\d_]*(?:\.\d+)?(?:[eE][-+]?\d+)?)(?=\s*(?:$|[,\]}\s]))|(?:^|[\s[,{:])(true|false|null|~)(?=\s*(?:$|[,\]}\s]))|([[\]{},])/g;

/** One line of YAML. */
export function* yamlLine(text: string): Generator<IToken> {
  const comment = /(^|\s)#.*$/.exec(text);
  const end = comment ? comment.index + comment[1].length : text.length;
  const line = text.slice(0, end);
  let start = 0;
  const marker = /^\s*(---|\.\.\.)\s*$/.exec(line);
  if (marker) {
    yield { from: line.indexOf(marker[1]), to: line.indexOf(marker[1]) + 3, kind: 'mark' };
    return;
  }
  const dashes = /^\s*(?:-\s+)+/.exec(line);
  if (dashes) {
    yield { from: dashes[0].search(/\S/), to: dashes[0].trimEnd().length, kind: 'mark' };
    start = dashes[0].length;
  }
  const key = /^(\s*)("[^"]*"|'[^']*'|[^\s:#{}[\],"'][^:#{}[\],]*?)(\s*:)(?=\s|$)/.exec(line.slice(start));
  if (key) {
    const from = start + key[1].length;
    yield { from, to: from + key[2].length, kind: 'key' };
    start += key[0].length;
  }
  const rest = line.slice(start);
  const keys = Array.from(matches(/(?:[{,]\s*)([A-Za-z_][\w.-]*)(?=\s*:(?:\s|$))/g, rest), found => {
    const from = start + found.index + found[0].length - found[1].length;
    return { from, to: from + found[1].length, kind: 'key' as Kind };
  });
  yield* keys;
  for (const found of matches(YAML_SCALAR, rest)) {
    const text = found[1] ?? found[2] ?? found[3] ?? found[4];
    const from = start + found.index + found[0].lastIndexOf(text);
    const kind: Kind = found[1] ? 'string' : found[2] ? 'number' : found[3] ? 'atom' : 'brace';
    yield { from, to: from + text.length, kind };
  }
  if (comment) {
    yield { from: end, to: text.length, kind: 'comment' };
  }
}

const WORDS = new Set([
  'for', 'in', 'endfor', 'if', 'elif', 'else', 'endif', 'set', 'endset', 'raw', 'endraw', 'and', 'or', 'not', 'is', 'filter', 'endfilter'
]);

/** The `{{ … }}` and `{% … %}` of a text. They may go over several lines, so the whole body is read at once. */
export function* template(text: string): Generator<IToken> {
  for (const found of matches(/\{\{([^]*?)(\}\}|$)|\{%-?([^]*?)(-?%\}|$)/g, text)) {
    const statement = found[3] !== undefined;
    const open = statement && found[0].startsWith('{%-') ? 3 : 2;
    const inner = (statement ? found[3] : found[1]) ?? '';
    const close = (statement ? found[4] : found[2]) ?? '';
    yield { from: found.index, to: found.index + open, kind: 'brace' };
    const start = found.index + open;
    for (const part of matches(/("[^"]*"?|'[^']*'?)|(\d+(?:\.\d+)?)|([A-Za-z_]\w*)|(\|)/g, inner)) {
      const from = start + part.index;
      const before = inner.slice(0, part.index).trimEnd();
      const kind: Kind = part[1]
        ? 'string'
        : part[2]
          ? 'number'
          : part[4]
            ? 'mark'
            : WORDS.has(part[3]) || before.endsWith('|')
              ? 'keyword'
              : 'variable';
      yield { from, to: from + part[0].length, kind };
    }
    if (close) {
      yield { from: start + inner.length, to: start + inner.length + close.length, kind: 'brace' };
    }
  }
}
