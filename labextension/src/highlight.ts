import { indentService } from '@codemirror/language';
import { Extension, Prec, RangeSetBuilder, Text } from '@codemirror/state';
import { Decoration, DecorationSet, EditorView, ViewPlugin, ViewUpdate } from '@codemirror/view';
import { EditorExtensionRegistry, IEditorExtensionFactory } from '@jupyterlab/codemirror';
import { bodyOf, IToken, magicLine, template, yamlLine } from './tokens';

/** Characters of a body that are coloured; what comes after stays plain. */
const MOST = 50_000;

const LINE = Decoration.line({ class: 'nbd-code' });
const MARKS = new Map<string, Decoration>();

function mark(kind: string): Decoration {
  let found = MARKS.get(kind);
  if (!found) {
    MARKS.set(kind, (found = Decoration.mark({ class: `nbd-tok-${kind}` })));
  }
  return found;
}

/** The colours of a cell of ours: Python's are off in it, but for the body of `%%map`. */
function decorate(doc: Text): DecorationSet {
  const first = doc.line(1).text;
  const body = bodyOf(first);
  if (!body) {
    return Decoration.none;
  }
  const lines: number[] = [];
  const tokens: IToken[] = [...magicLine(first)];
  const limit = Math.min(doc.length, MOST);
  let at = 2;
  const readYaml = (until: (text: string) => boolean): void => {
    for (; at <= doc.lines && doc.line(at).from < limit; at++) {
      const line = doc.line(at);
      tokens.push(...shifted(yamlLine(line.text), line.from));
      if (until(line.text)) {
        at++;
        return;
      }
    }
  };
  if (body === 'yaml') {
    readYaml(() => false);
  } else if (at <= doc.lines && doc.line(at).text === '---') {
    let fences = 0;
    readYaml(text => text === '---' && ++fences === 2);
  }
  if (body === 'template' && at <= doc.lines) {
    const from = doc.line(at).from;
    tokens.push(...shifted(template(doc.sliceString(from, limit)), from));
  }
  const last = body === 'python' ? at - 1 : doc.lines;
  for (let number = 1; number <= last; number++) {
    lines.push(doc.line(number).from);
  }
  return built(lines, tokens);
}

function* shifted(tokens: Iterable<IToken>, by: number): Generator<IToken> {
  for (const token of tokens) {
    yield { ...token, from: token.from + by, to: token.to + by };
  }
}

function built(lines: number[], tokens: IToken[]): DecorationSet {
  const all: { from: number; to: number; side: number; value: Decoration }[] = [
    ...lines.map(from => ({ from, to: from, side: 0, value: LINE })),
    ...tokens.filter(token => token.to > token.from).map(token => ({ from: token.from, to: token.to, side: 1, value: mark(token.kind) }))
  ];
  all.sort((one, other) => one.from - other.from || one.side - other.side || one.to - other.to);
  const builder = new RangeSetBuilder<Decoration>();
  for (const { from, to, value } of all) {
    builder.add(from, to, value);
  }
  return builder.finish();
}

const plugin = ViewPlugin.fromClass(
  class {
    decorations: DecorationSet;

    constructor(view: EditorView) {
      this.decorations = decorate(view.state.doc);
    }

    update(update: ViewUpdate): void {
      if (update.docChanged) {
        this.decorations = decorate(update.state.doc);
      }
    }
  },
  { decorations: value => value.decorations }
);

/** A new line of prose or YAML begins where the one before it begins: Python's rules for a colon are not its. */
const indent = indentService.of((context, position) => {
  const body = bodyOf(context.state.doc.line(1).text);
  if (!body || body === 'python') {
    return undefined;
  }
  const line = context.state.doc.lineAt(position);
  const above = line.number > 1 && line.from === position ? context.state.doc.line(line.number - 1) : line;
  return above.number === 1 ? 0 : (/^\s*/.exec(above.text)?.[0].length ?? 0);
});

export const highlighting: Extension = [Prec.highest(plugin), Prec.highest(indent)];

/** The extension of cells' editors. */
export function editorExtension(): IEditorExtensionFactory {
  return {
    name: 'nbdream:highlight',
    factory: ({ inline }) => (inline ? EditorExtensionRegistry.createImmutableExtension(highlighting) : null)
  };
}
