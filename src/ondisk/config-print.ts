/**
 * The generic nodes of a text, printed the way LVM2's own configuration writer prints them (lvm2: dm_config_write_node): one
 * tab per level, `key=value` without spaces. LVM2 uses it inside metadata for policy_settings and for the fields of unknown
 * segment types, which is why those look different from everything around them; we also use it for whatever else we keep
 * without knowing it.
 *
 * Invariant: parsing the printed lines gives the printed nodes.
 */
import assert from 'node:assert/strict';
import type { ConfigNode, ConfigScalar, ConfigValue } from './metadata.ts';

const PLAIN_KEY = /^[^ \t\n\v\f\r#={}"'![\],\0][^ \t\n\v\f\r#={}"!\0]*$/;

const SPECIAL = /["\\\0]/;

/** The lines for `nodes`, indented by `level` tabs and without newlines. */
export function configLines(nodes: readonly ConfigNode[], level = 0): string[] {
  const lines: string[] = [];
  appendNodes(lines, nodes, level);
  return lines;
}

// Depth is bounded by the parser's limit, for only parsed or hand-made trees come here.
function appendNodes(lines: string[], nodes: readonly ConfigNode[], level: number): void {
  const indent = '\t'.repeat(level);
  for (const node of nodes) {
    if (node.node === 'value') {
      lines.push(`${indent}${keyText(node.key)}=${valueText(node.value)}`);
      continue;
    }
    lines.push(`${indent}${keyText(node.key)} {`);
    appendNodes(lines, node.children, level + 1);
    lines.push(`${indent}}`);
  }
}

/** A key or section name: quoted if it would not be read back as one word. */
export function keyText(key: string): string {
  return PLAIN_KEY.test(key) ? key : quoted(key);
}

/** A string value in its quotes. */
export function quoted(text: string): string {
  if (!SPECIAL.test(text)) return `"${text}"`;
  assert(!text.includes('\0'), 'a NUL would end the metadata text');
  return `"${text.replaceAll(/["\\]/g, String.raw`\$&`)}"`;
}

function valueText(value: ConfigValue): string {
  return value.kind === 'array' ? `[${value.items.map((item) => scalarText(item)).join(',')}]` : scalarText(value);
}

/** A scalar as LVM2 reads it back. */
export function scalarText(value: ConfigScalar): string {
  if (value.kind === 'string') return quoted(value.value);
  return value.kind === 'float' ? value.text : String(value.value);
}
