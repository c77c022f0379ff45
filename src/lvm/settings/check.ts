/**
 * What is wrong with a configuration, in LVM2's words: unknown settings, wrong types, and what a profile may not set.
 *
 * Invariant: nothing here changes what holds; a wrong value counts as not given, and only a profile is refused as a whole.
 *
 * Source: lvm.conf(5) config/checks; messages observed with LVM2 2.03.16.
 */
import type { ConfigNode, ConfigScalar, ConfigValue } from '../../ondisk/metadata.ts';
import type { LayerSource } from '../settings.ts';
import { SETTING_NODES, type SettingNode } from './nodes.ts';
import { boolOf } from './values.ts';

const SECTIONS: ReadonlySet<string> = new Set([...SETTING_NODES.keys()].map((path) => path.split('/', 1)[0] ?? ''));
/** Sections whose names, or whose contents, are the user's own. */
const FREE_SECTIONS = /^(?:tags\/[^/]+|allocation\/cache_settings(?:\/[^/]+)?|metadata\/disk_areas(?:\/[^/]+)?)$/;
const FREE_SETTINGS = /^(?:tags\/[^/]+\/host_list|allocation\/cache_settings\/.+|metadata\/disk_areas\/.+)$/;
/** Top sections that hold something a profile may set. */
const PROFILE_SECTIONS: ReadonlySet<string> = new Set(['allocation', 'log', 'global', 'activation', 'report']);

/** Every problem, a line each; empty: the configuration is valid. */
export function configProblems(nodes: readonly ConfigNode[], source: LayerSource, above = ''): string[] {
  return nodes.flatMap((node) => {
    const path = above === '' ? node.key : `${above}/${node.key}`;
    if (node.node === 'value') return valueProblems(path, node.value, source);
    if (SETTING_NODES.has(path)) return [typeError(path, 'section', SETTING_NODES.get(path))];
    if (above === '' ? !SECTIONS.has(path) : !FREE_SECTIONS.test(path)) {
      return [`Configuration section "${path}" unknown.`];
    }
    if (source !== 'file' && source !== 'string' && !PROFILE_SECTIONS.has(path.split('/', 1)[0] ?? '')) {
      return [`Configuration section "${path}" is not customizable by a profile.`];
    }
    return configProblems(node.children, source, path);
  });
}

function valueProblems(path: string, value: ConfigValue, source: LayerSource): string[] {
  if (FREE_SETTINGS.test(path)) return [];
  const node = SETTING_NODES.get(path);
  if (node === undefined) return [`Configuration setting "${path}" unknown.`];
  const problem = typeProblem(path, value, node) ?? profileProblem(path, node, source);
  return problem === null ? [] : [problem];
}

function typeProblem(path: string, value: ConfigValue, node: SettingNode): string | null {
  if (value.kind !== 'array') return scalarProblem(path, value, node);
  if (value.items.length === 0) {
    if (node.type !== 'strings') return typeError(path, 'array', node);
    return node.mayBeEmpty === true ? null : `Configuration setting "${path}" invalid. Empty value not allowed.`;
  }
  if (value.items.length > 1 && node.type !== 'strings') return typeError(path, 'array', node);
  for (const item of value.items) {
    const problem = scalarProblem(path, item, node);
    if (problem !== null) return problem;
  }
  return null;
}

function scalarProblem(path: string, value: ConfigScalar, node: SettingNode): string | null {
  if (value.kind === 'int') {
    const allowed = node.type === 'int' || node.type === 'bool' || path === 'devices/types';
    return allowed ? null : typeError(path, 'integer', node);
  }
  if (value.kind === 'float') return typeError(path, 'float', node);
  if (node.type === 'bool') {
    if (boolOf(value) !== null) return null;
    return `Configuration setting "${path}" invalid. Found string value "${value.value}", expected boolean value: 0/1, "y/n", "yes/no", "on/off", "true/false".`;
  }
  if (node.type === 'int') return typeError(path, 'string', node);
  if (value.value === '' && node.mayBeEmpty !== true) {
    return `Configuration setting "${path}" invalid. It cannot be set to an empty value.`;
  }
  return null;
}

const TYPE_NAMES: Readonly<Record<SettingNode['type'], string>> = {
  bool: 'boolean',
  int: 'integer',
  string: 'string',
  strings: 'array with values of type: string',
};

function typeError(path: string, found: string, node: SettingNode | undefined): string {
  const expected = node === undefined ? 'section' : TYPE_NAMES[node.type];
  return `WARNING: Configuration setting "${path}" has invalid type. Found ${found} but expected ${expected}.`;
}

function profileProblem(path: string, node: SettingNode, source: LayerSource): string | null {
  if (source === 'file' || source === 'string') return null;
  if (node.profile === undefined) return `Configuration option "${path}" is not customizable by a profile.`;
  const wanted = source === 'command-profile' ? 'command' : 'metadata';
  if (node.profile === wanted) return null;
  return `Configuration option "${path}" is customizable by ${node.profile} profile only, not ${wanted} profile.`;
}
