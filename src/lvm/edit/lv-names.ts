/**
 * Names of LVs: what a user may choose, what LVM2 keeps to itself, and what it makes up.
 *
 * Source: formats note §2.7 and §3; messages of lvcreate and lvrename 2.03.16.
 */
import type { VolumeGroupText } from '../../ondisk/metadata.ts';

const RESERVED_PREFIXES: readonly string[] = ['pvmove', 'snapshot'];
const RESERVED_PARTS: readonly string[] = [
  '_cdata',
  '_cmeta',
  '_corig',
  '_cpool',
  '_cvol',
  '_wcorig',
  '_mimage',
  '_mlog',
  '_rimage',
  '_rmeta',
  '_tdata',
  '_tmeta',
  '_vdata',
  '_imeta',
  '_iorig',
  '_pmspare',
  '_vorigin',
];

/** Why a user may not give this name to an LV; null if it is not reserved. */
export function reservedName(name: string): string | null {
  const prefix = RESERVED_PREFIXES.find((start) => name.startsWith(start));
  if (prefix !== undefined) return `Names starting "${prefix}" are reserved. Please choose a different LV name.`;
  const part = RESERVED_PARTS.find((piece) => name.includes(piece));
  if (part !== undefined) return `Names including "${part}" are reserved. Please choose a different LV name.`;
  return null;
}

/** Whether a name is that of an LV, of one that is only remembered, or free. */
export function nameUse(vg: VolumeGroupText, name: string): 'live' | 'historical' | null {
  if (vg.logicalVolumes.some((lv) => lv.name === name)) return 'live';
  const remembered = vg.historicalLogicalVolumes.some((lv) => (lv.name ?? lv.label) === name);
  return remembered ? 'historical' : null;
}

/** The next free name of the form `PREFIX` and a number: one more than the highest in use, whatever follows the number. */
export function generatedName(vg: VolumeGroupText, prefix: string): string {
  const names = [
    ...vg.logicalVolumes.map((lv) => lv.name),
    ...vg.historicalLogicalVolumes.map((lv) => lv.name ?? lv.label),
  ];
  let highest = -1;
  for (const name of names) {
    if (!name.startsWith(prefix)) continue;
    const digits = /^[+-]?\d+/.exec(name.slice(prefix.length))?.[0];
    if (digits !== undefined) highest = Math.max(highest, Number(digits));
  }
  return `${prefix}${highest + 1}`;
}
