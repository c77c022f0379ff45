/**
 * What the configuration says of this host: its tags and its system ID.
 *
 * Invariants
 *  - A source that gives no system ID leaves the host without one, and says so: VGs that have one are then foreign.
 *  - Characters that a system ID can't have are left out, as LVM2 does.
 *
 * Source: lvmsystemid(7), lvm.conf(5) tags; messages observed with LVM2 2.03.16.
 */
import { readFileSync } from 'node:fs';
import { createHmac } from 'node:crypto';
import { join } from 'node:path';
import type { ConfigNode, ConfigScalar } from '../../ondisk/metadata.ts';
import type { Settings } from '../settings.ts';
import { boolOf, findSection, findValue } from './values.ts';

/** The tags that configurations give to a host of that name. */
export function hostTags(configs: readonly (readonly ConfigNode[])[], hostName: string): readonly string[] {
  const tags = new Set<string>();
  for (const nodes of configs) {
    const hosttags = findValue(nodes, 'tags/hosttags');
    if (hosttags !== null && boolOf(hosttags) === true) tags.add(hostName);
    for (const node of findSection(nodes, 'tags')) {
      if (node.node === 'section' && concerns(node.children, hostName)) tags.add(node.key.replace(/^@/, ''));
    }
  }
  return [...tags];
}

/** Without a host_list a tag is every host's. */
function concerns(tag: readonly ConfigNode[], hostName: string): boolean {
  const list = findValue(tag, 'host_list');
  if (list === null) return true;
  const names: readonly ConfigScalar[] = list.kind === 'array' ? list.items : [list];
  return names.some(({ value }) => value === hostName);
}

const NAME_LENGTH = 128;

export interface HostFacts {
  readonly hostName: string;
  readonly warn: (line: string) => void;
}

/** The host's system ID by global/system_id_source; null: it has none. */
export function systemIdOf(settings: Settings, { hostName, warn }: HostFacts): string | null {
  const source = settings.string('global/system_id_source');
  if (settings.string('local/system_id') !== '' && source !== 'lvmlocal') {
    warn(`WARNING: local/system_id is set, so should global/system_id_source be "lvmlocal" not "${source}"?`);
  }
  if (source === 'none') return null;
  const id = fromSource(settings, source, { hostName, warn });
  if (id !== null && id !== '') return id;
  warn(`WARNING: No system ID found from system_id_source ${source}.`);
  return null;
}

function fromSource(settings: Settings, source: string, { hostName, warn }: HostFacts): string | null {
  switch (source.toLowerCase()) {
    case 'uname':
      return asSystemId(hostName, warn);
    case 'lvmlocal':
      return asSystemId(settings.string('local/system_id'), warn);
    case 'machineid':
    case 'machine-id':
      return fromFile(join(settings.string('global/etc'), 'machine-id'), warn);
    case 'appmachineid':
      return appMachineId(join(settings.string('global/etc'), 'machine-id'), warn);
    case 'file':
      return fromFile(settings.string('global/system_id_file') ?? '', warn);
    default:
      warn(`WARNING: Unrecognised system_id_source "${source}".`);
      return null;
  }
}

/** The only line of a file, without comments. */
function fromFile(path: string, warn: (line: string) => void): string | null {
  if (path === '') return null;
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    warn(`WARNING: ${path}: fopen failed: ${code === 'ENOENT' ? 'No such file or directory' : message}`);
    return null;
  }
  const lines = text.split('\n').flatMap((line) => line.replace(/#.*/, '').trim() || []);
  if (lines.length > 1) warn(`WARNING: Ignoring extra line(s) in system ID file ${path}.`);
  return lines[0] === undefined ? null : asSystemId(lines[0], warn);
}

/** The ID that LVM2's application has by sd_id128_get_machine_app_specific: HMAC-SHA256 of it, keyed by the machine's. */
const LVM_APPLICATION = Buffer.from('f64406832c2140e8ac5422d1089aae03', 'hex');

function appMachineId(path: string, warn: (line: string) => void): string | null {
  const machine = fromFile(path, warn);
  if (machine === null || !/^[0-9a-f]{32}$/.test(machine)) return null;
  const id = createHmac('sha256', Buffer.from(machine, 'hex')).update(LVM_APPLICATION).digest().subarray(0, 16);
  // A version 4 UUID, as systemd makes it.
  id.writeUInt8((id.readUInt8(6) & 0x0f) | 0x40, 6);
  id.writeUInt8((id.readUInt8(8) & 0x3f) | 0x80, 8);
  return id.toString('hex');
}

function asSystemId(text: string, warn: (line: string) => void): string | null {
  if (text === '') {
    warn('WARNING: Empty system ID supplied.');
    return '';
  }
  const id = text
    .replace(/^[^A-Za-z0-9]+/, '')
    .replaceAll(/[^A-Za-z0-9._+-]/g, '')
    .slice(0, NAME_LENGTH);
  if (id === '') {
    warn(`WARNING: Invalid system ID format: ${text}`);
    return null;
  }
  if (id.startsWith('localhost')) {
    warn('WARNING: system ID may not begin with the string "localhost".');
    return null;
  }
  return id;
}
