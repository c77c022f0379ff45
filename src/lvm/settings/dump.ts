/**
 * Configurations as text, for lvmconfig: what is set, what holds by default, what differs.
 *
 * Invariants
 *  - What is printed can be read back as a configuration; defaults stand behind a comment sign, as nothing needs them.
 *  - Settings come in the order of the table of settings; those that LVM2 doesn't know are left out, as it leaves them out.
 *
 * Source: lvmconfig(8), compared with 2.03.16.
 */
import { configLines } from '../../ondisk/config-print.ts';
import type { ConfigNode, ConfigScalar, ConfigValue } from '../../ondisk/metadata.ts';
import type { Settings, SettingsLayer } from '../settings.ts';
import { SETTING_NODES, type SettingNode } from './nodes.ts';
import { findSection, findValue } from './values.ts';

export const DUMP_TYPES = [
  'current',
  'default',
  'diff',
  'full',
  'list',
  'missing',
  'new',
  'profilable',
  'profilable-command',
  'profilable-metadata',
] as const;
export type DumpType = (typeof DUMP_TYPES)[number];

/** One setting to print. */
interface Line {
  readonly path: string;
  readonly value: ConfigValue;
  readonly commented: boolean;
}

export interface Dump {
  readonly type: DumpType;
  /** What counts as set: layers, the strongest first. */
  readonly layers: readonly SettingsLayer[];
  /** "section/name" or "section"; empty: everything. */
  readonly wanted: readonly string[];
  /** "name = value" instead of "name=value". */
  readonly spaces: boolean;
}

export interface DumpText {
  readonly lines: readonly string[];
  /** What was wanted and isn't there. */
  readonly missing: readonly string[];
}

export function dumpSettings(settings: Settings, dump: Dump): DumpText {
  const all = linesOf(settings, dump);
  if (dump.wanted.length === 0) return { lines: sections(all, dump), missing: [] };
  const lines: string[] = [];
  const missing: string[] = [];
  for (const path of dump.wanted) {
    const exact = all.filter((line) => line.path === path);
    const within = all.filter((line) => line.path.startsWith(`${path}/`));
    if (exact.length + within.length === 0) missing.push(path);
    lines.push(...exact.map((line) => oneLine(line, dump)), ...sections(within, dump));
  }
  return { lines, missing };
}

function linesOf(settings: Settings, { type, layers }: Dump): readonly Line[] {
  const lines: Line[] = [];
  for (const [path, node] of SETTING_NODES) {
    const facts = { node, set: firstValue(layers, path), byDefault: defaultValue(settings, node) };
    const value = CHOICES[type](facts);
    if (value !== null) lines.push({ path, value, commented: value !== facts.set && type !== 'full' });
  }
  if (type === 'current' || type === 'full') lines.push(...tagLines(layers));
  return lines;
}

interface Facts {
  readonly node: SettingNode;
  readonly set: ConfigValue | null;
  readonly byDefault: ConfigValue | null;
}

/** The default of a setting that has an effect. */
function asDefault({ node, byDefault }: Facts): ConfigValue | null {
  return node.gone === true ? null : byDefault;
}

const NAME_ONLY: ConfigValue = { kind: 'int', value: 0 };

/** The value that each type of dump shows of a setting; null: it is left out. */
const CHOICES: Readonly<Record<DumpType, (facts: Facts) => ConfigValue | null>> = {
  current: ({ set }) => set,
  default: asDefault,
  diff: ({ set, byDefault }) => (set === null || sameValue(set, byDefault) ? null : set),
  full: (facts) => facts.set ?? asDefault(facts),
  list: ({ node }) => (node.gone === true ? null : NAME_ONLY),
  missing: (facts) => (facts.set === null ? asDefault(facts) : null),
  // Of this version: there is no newer one.
  new: () => null,
  profilable: (facts) => (facts.node.profile === undefined ? null : asDefault(facts)),
  'profilable-command': (facts) => (facts.node.profile === 'command' ? asDefault(facts) : null),
  'profilable-metadata': (facts) => (facts.node.profile === 'metadata' ? asDefault(facts) : null),
};

function firstValue(layers: readonly SettingsLayer[], path: string): ConfigValue | null {
  for (const { nodes } of layers) {
    const value = findValue(nodes, path);
    if (value !== null) return value;
  }
  return null;
}

/** Tags are the user's own names. */
function tagLines(layers: readonly SettingsLayer[]): readonly Line[] {
  const lines = new Map<string, Line>();
  for (const { nodes } of layers.toReversed()) {
    for (const tag of findSection(nodes, 'tags')) {
      if (tag.node !== 'section') continue;
      const path = `tags/${tag.key}/host_list`;
      const value = findValue(tag.children, 'host_list') ?? { kind: 'array', items: [] };
      lines.set(path, { path, value, commented: false });
    }
  }
  return [...lines.values()];
}

function defaultValue(settings: Settings, node: SettingNode): ConfigValue | null {
  if (node.systemDirectory !== undefined) {
    return { kind: 'string', value: `${settings.systemDirectory}/${node.systemDirectory}` };
  }
  const value = node.default;
  if (value === null) return null;
  if (typeof value === 'boolean') return { kind: 'int', value: Number(value) };
  if (typeof value === 'number') return { kind: 'int', value };
  if (typeof value === 'string') return { kind: 'string', value };
  return { kind: 'array', items: value.map((item): ConfigScalar => ({ kind: 'string', value: item })) };
}

function sameValue(a: ConfigValue, b: ConfigValue | null): boolean {
  return b !== null && itemsOf(a).join('\n') === itemsOf(b).join('\n');
}

function itemsOf(value: ConfigValue): readonly string[] {
  return value.kind === 'array' ? value.items.map((item) => String(item.value)) : [String(value.value)];
}

function sections(lines: readonly Line[], dump: Dump): string[] {
  if (dump.type === 'list') return lines.map(({ path }) => path);
  const names = [...new Set(lines.map(({ path }) => path.split('/', 1)[0] ?? ''))];
  const text: string[] = [];
  for (const name of names) {
    const own = lines.filter(({ path }) => path.startsWith(`${name}/`));
    text.push(`${name} {`, ...own.flatMap((line) => nestedLines(line, dump)), '}');
  }
  return text;
}

function indent(level: number): string {
  return '\t'.repeat(level);
}

function nestedLines(line: Line, dump: Dump): string[] {
  const parts = line.path.split('/').slice(1, -1);
  return [
    ...parts.map((part, at) => `${indent(at + 1)}${part} {`),
    `${indent(parts.length + 1)}${oneLine(line, dump)}`,
    ...parts.map((_, at) => `${indent(parts.length - at)}}`),
  ];
}

function oneLine({ path, value, commented }: Line, { type, spaces }: Dump): string {
  if (type === 'list') return path;
  const key = path.slice(path.lastIndexOf('/') + 1);
  const octal = SETTING_NODES.get(path)?.octal === true && value.kind === 'int';
  const node: ConfigNode = { node: 'value', key, value };
  const tight = octal ? `${key}=0${value.value.toString(8)}` : configLines([node]).join('\n');
  return `${commented ? '# ' : ''}${spaces ? spaced(tight) : tight}`;
}

/** "a=[1,2]" as "a = [ 1, 2 ]". */
function spaced(line: string): string {
  const text = line.replace('=', ' = ');
  if (!text.endsWith(']')) return text;
  const open = text.indexOf('[');
  const items = text.slice(open + 1, -1).replaceAll(/("(?:[^"\\]|\\.)*"|[^,"]+),/g, '$1, ');
  return items === '' ? text : `${text.slice(0, open)}[ ${items} ]`;
}
