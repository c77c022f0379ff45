/**
 * LVM2's configuration grammar, parsed to a tree of sections and assignments.
 *
 *     file       := node*
 *     node       := key '{' node* '}'  |  key '=' value
 *     value      := scalar  |  '[' (scalar ','?)* ']'
 *     key        := word or string; a/b means b inside a section a
 *
 * Invariants
 *  - Linear in the text's length; nesting is kept on a stack of our own and limited, so no input overflows ours.
 *  - Nodes come in the text's order and nothing is merged or dropped: repeated keys are repeated nodes (LVM2 reads metadata
 *    the same way and then uses the first).
 */
import type { ConfigNode, ConfigScalar, ConfigSection, ConfigValue } from './metadata.ts';
import { ConfigLexer, type LexContext } from './config-lexer.ts';
import type { Where } from './errors.ts';
import { decodeText } from './text-bytes.ts';

/** Metadata needs 5 levels and lvm.conf 3: whatever is deeper is hostile. */
const MAX_DEPTH = 32;
/** What LVM2 reads for a creation_time that overflows: some builds before 2.02.169 wrote such. */
export const REPAIRED_CREATION_TIME = 1527120000;

/** A section whose `}` was not reached yet. */
export interface OpenSection {
  readonly key: string;
  /** So far. */
  readonly children: ConfigNode[];
  /** Whether the same `}` also ends the section around it: of "a/b {", b closes a. */
  readonly closesParent: boolean;
}

/**
 * Told of each section when it ends, with the keys of the sections around it and what stands before those in the text. True: it has
 * been read, and the tree gets the section without its children, which keeps huge texts from becoming huge trees.
 */
export type SectionReader = (
  section: ConfigSection,
  around: readonly OpenSection[],
  root: readonly ConfigNode[],
) => boolean;

/** Parses a text in LVM2's configuration grammar; a FormatError with line and byte if it isn't one. */
export function parseConfig(
  text: Uint8Array | string,
  where: Where = { device: 'configuration', offset: 0 },
  reader: SectionReader = () => false,
): readonly ConfigNode[] {
  const lexer = new ConfigLexer(typeof text === 'string' ? text : decodeText(text), where);
  const root: ConfigNode[] = [];
  const open: OpenSection[] = [];
  lexer.advance('key');
  while (!lexer.is('end')) {
    const siblings = open.at(-1)?.children ?? root;
    if (lexer.is('}')) {
      closeSection(lexer, open, root, reader);
      lexer.advance('key');
      continue;
    }
    const keys = keyPath(lexer, open.length);
    lexer.advance('key');
    if (lexer.is('{')) {
      keys.forEach((key, index) => open.push({ key, children: [], closesParent: index > 0 }));
      lexer.advance('key');
    } else {
      if (!lexer.is('=')) throw lexer.unexpected(`"{" or "=" after ${keys.join('/')}`);
      siblings.push(nested(keys, parseValue(lexer, keys.at(-1) ?? '')));
    }
  }
  const unclosed = open.at(-1);
  if (unclosed !== undefined) throw lexer.unexpected(`"}" for section ${unclosed.key}`);
  return root;
}

function keyPath(lexer: ConfigLexer, depth: number): readonly string[] {
  if (!lexer.is('word') && !lexer.is('string')) throw lexer.unexpected('a key');
  const { text } = lexer;
  if (text === '' || text.endsWith('/')) throw lexer.fail('SYNTAX', `empty name in key ${JSON.stringify(text)}`);
  const keys = text.includes('/') ? text.split('/').filter((part) => part !== '') : [text];
  if (depth + keys.length > MAX_DEPTH) {
    throw lexer.fail('TOO_DEEP', `sections nested deeper than ${MAX_DEPTH} levels`);
  }
  return keys;
}

function closeSection(lexer: ConfigLexer, open: OpenSection[], root: ConfigNode[], reader: SectionReader): void {
  for (;;) {
    const section = open.pop();
    if (section === undefined) throw lexer.fail('SYNTAX', '"}" without a section');
    const siblings = open.at(-1)?.children ?? root;
    const node: ConfigSection = { node: 'section', key: section.key, children: section.children };
    if (reader(node, open, root)) section.children.length = 0;
    siblings.push(node);
    if (!section.closesParent) return;
  }
}

/** "a/b = value" is b = value inside a section a. */
function nested(keys: readonly string[], value: ConfigValue): ConfigNode {
  let node: ConfigNode = { node: 'value', key: keys.at(-1) ?? '', value };
  for (let at = keys.length - 2; at >= 0; at--) node = { node: 'section', key: keys[at] ?? '', children: [node] };
  return node;
}

/** Reads the value after "=", and the token after the value. */
function parseValue(lexer: ConfigLexer, key: string): ConfigValue {
  lexer.advance('value');
  if (!lexer.is('[')) return parseScalar(lexer, key, 'key');
  const items: ConfigScalar[] = [];
  lexer.advance('item');
  while (!lexer.is(']')) {
    items.push(parseScalar(lexer, key, 'item'));
    if (lexer.is(',')) lexer.advance('item');
  }
  lexer.advance('key');
  return { kind: 'array', items };
}

function parseScalar(lexer: ConfigLexer, key: string, next: LexContext): ConfigScalar {
  const scalar = scalarOf(lexer, key);
  lexer.advance(next);
  return scalar;
}

function scalarOf(lexer: ConfigLexer, key: string): ConfigScalar {
  const { kind, text, number } = lexer;
  if (kind === 'string' || kind === 'word') return { kind, value: text };
  if (kind === 'int') return { kind, value: number };
  if (kind !== 'float') throw lexer.unexpected(`a value for ${key}`);
  if (key === 'creation_time' && !text.includes('.')) return { kind: 'int', value: REPAIRED_CREATION_TIME };
  return { kind, value: number, text };
}
