/**
 * Looking a setting up in a parsed configuration, and reading its value as a type.
 *
 * Invariant: a value of another type is null, never a guess; LVM2 then takes the default.
 */
import type { ConfigNode, ConfigScalar, ConfigValue } from '../../ondisk/metadata.ts';

/** The value at "section/…/name"; null where there is none. Of several the last one. */
export function findValue(nodes: readonly ConfigNode[], path: string): ConfigValue | null {
  const slash = path.indexOf('/');
  const key = slash < 0 ? path : path.slice(0, slash);
  for (const node of nodes.toReversed()) {
    if (node.key !== key) continue;
    if (slash < 0) {
      if (node.node === 'value') return node.value;
    } else if (node.node === 'section') {
      const value = findValue(node.children, path.slice(slash + 1));
      if (value !== null) return value;
    }
  }
  return null;
}

/** The nodes of a section; those of several of the same name together. */
export function findSection(nodes: readonly ConfigNode[], key: string): readonly ConfigNode[] {
  return nodes.flatMap((node) => (node.node === 'section' && node.key === key ? node.children : []));
}

const WORDS: Readonly<Record<string, boolean>> = {
  y: true,
  yes: true,
  on: true,
  true: true,
  n: false,
  no: false,
  off: false,
  false: false,
};

/** A number, or one of LVM2's words for yes and no. */
export function boolOf(value: ConfigValue): boolean | null {
  const one = single(value);
  if (one?.kind === 'int') return one.value !== 0;
  return one?.kind === 'string' || one?.kind === 'word' ? (WORDS[one.value.toLowerCase()] ?? null) : null;
}

export function intOf(value: ConfigValue): number | null {
  const one = single(value);
  return one?.kind === 'int' ? one.value : null;
}

export function stringOf(value: ConfigValue, mayBeEmpty: boolean): string | null {
  const one = single(value);
  if (one?.kind !== 'string' && one?.kind !== 'word') return null;
  return one.value === '' && !mayBeEmpty ? null : one.value;
}

/** A list, or a single string as a list of one. */
export function stringsOf(value: ConfigValue, mayBeEmpty: boolean): readonly string[] | null {
  const items = value.kind === 'array' ? value.items : [value];
  if (items.length === 0 && !mayBeEmpty) return null;
  return items.map((item) => String(item.value));
}

function single(value: ConfigValue): ConfigScalar | null {
  if (value.kind !== 'array') return value;
  const [only] = value.items;
  return value.items.length === 1 && only !== undefined ? only : null;
}
