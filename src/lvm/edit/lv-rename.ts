/**
 * lvrename: another name for an LV and for its hidden parts.
 *
 * Invariant: parts are called after their LV (`X_mimage_0`); pools and other LVs of their own that it uses keep their names.
 *
 * Source: lvrename(8); messages of lvrename 2.03.16.
 */
import type { VolumeGroupText } from '../../ondisk/metadata.ts';
import { isValidName } from '../../ondisk/vg-validate.ts';
import type { VolumeGroup } from '../model.ts';
import { relationsOf, type LvFacts, type VgRelations } from '../relations.ts';
import { CommandError } from './errors.ts';
import { lvFacts } from './lv-facts.ts';
import { nameUse } from './lv-names.ts';
import type { Notes } from './lv-notes.ts';
import { withRenamedLvs } from './lv-references.ts';
import { emptyPlan, type Plan } from './plan.ts';

const POOLS: ReadonlySet<string> = new Set(['thin-pool', 'cache-pool', 'vdo-pool']);

export interface LvRenameRequest {
  readonly from: string;
  readonly to: string;
  /** The names are of an LV that is gone and only remembered. */
  readonly historical: boolean;
}

/** Throws CommandError (5). */
export function renameLv(group: VolumeGroup, request: LvRenameRequest, notes: Notes): Plan {
  const { vg } = group;
  const { from, to, historical } = request;
  const after = historical ? renamedHistorical(vg, from, to) : renamed(vg, from, to);
  const mark = historical ? '-' : '';
  notes.done(`Renamed "${mark}${from}" to "${mark}${to}" in volume group "${vg.name}"`);
  return { ...emptyPlan(group, after), messages: notes.messages };
}

function renamed(vg: VolumeGroupText, from: string, to: string): VolumeGroupText {
  const facts = lvFacts(vg, from);
  if (facts === null || facts.snapshotRecord) {
    throw new CommandError(`Existing logical volume "${from}" not found in volume group "${vg.name}"`);
  }
  const raid = facts.usedBy.find((use) => use.kind === 'raid-image' || use.kind === 'raid-metadata');
  if (raid !== undefined) {
    throw new CommandError(`Cannot rename a RAID ${raid.kind === 'raid-image' ? 'image' : 'metadata area'} directly`);
  }
  const isPool = POOLS.has(facts.lv.segments[0]?.type ?? '');
  if (!isPool && !facts.visible) throw new CommandError(`Cannot rename internal LV "${from}".`);
  refuseUsed(vg, to, 'Historical ');
  if (facts.lv.status.includes('LOCKED')) throw new CommandError(`Cannot rename locked LV ${from}`);
  const names = new Map([[from, to]]);
  for (const part of partsOf(relationsOf(vg), facts, from)) {
    const name = partName(part, from, to);
    refuseUsed(vg, name, 'historical ');
    names.set(part.name, name);
  }
  return withRenamedLvs(vg, names);
}

function refuseUsed(vg: VolumeGroupText, name: string, historical: string): void {
  const use = nameUse(vg, name);
  if (use === null) return;
  const what = use === 'historical' ? `${historical}Logical Volume` : 'Logical Volume';
  throw new CommandError(`${what} "${name}" already exists in volume group "${vg.name}"`);
}

function partName(part: LvFacts, from: string, to: string): string {
  if (!part.name.startsWith(`${from}_`)) {
    throw new CommandError(`Cannot rename "${from}": name format not recognized for internal LV "${part.name}"`);
  }
  const name = `${to}${part.name.slice(from.length)}`;
  if (!isValidName(name)) {
    throw new CommandError(`Cannot rename "${part.name}". New logical volume name "${name}" is invalid.`);
  }
  if (part.lv.status.includes('LOCKED')) throw new CommandError(`Cannot rename locked LV ${part.name}`);
  return name;
}

/** The LVs that an LV is made of, all the way down, but for pools, cache volumes and external origins. */
function partsOf(relations: VgRelations, facts: LvFacts, top: string): readonly LvFacts[] {
  const found = new Map<string, LvFacts>();
  const pending = [facts];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const below = next.uses
      .filter(({ kind }) => kind !== 'thin-origin' && kind !== 'snapshot-origin' && kind !== 'snapshot-cow')
      .map(({ name }) => name);
    if (next.snapshot !== null && relations.lvs.get(next.snapshot.origin)?.virtualOrigin === true) {
      below.push(next.snapshot.origin);
    }
    for (const name of below) {
      const part = relations.lvs.get(name);
      if (part === undefined || found.has(name) || name === top || hasOwnName(part)) continue;
      found.set(name, part);
      pending.push(part);
    }
  }
  return [...found.values()];
}

function hasOwnName({ lv, usedBy }: LvFacts): boolean {
  return (
    POOLS.has(lv.segments[0]?.type ?? '') ||
    lv.flags.includes('CACHE_VOL') ||
    usedBy.some((use) => use.kind === 'external-origin')
  );
}

function nameOf(lv: { readonly name?: string; readonly label: string }): string {
  return lv.name ?? lv.label;
}

function renamedHistorical(vg: VolumeGroupText, from: string, to: string): VolumeGroupText {
  if (!vg.historicalLogicalVolumes.some((lv) => nameOf(lv) === from)) {
    throw new CommandError(`Existing historical logical volume "${from}" not found in volume group "${vg.name}"`);
  }
  refuseUsed(vg, to, 'Historical ');
  const link = (name: string): string => (name === `-${from}` ? `-${to}` : name);
  return {
    ...vg,
    historicalLogicalVolumes: vg.historicalLogicalVolumes.map((lv) => ({
      ...lv,
      ...(nameOf(lv) === from ? { label: to, ...(lv.name === undefined ? {} : { name: to }) } : {}),
      ...(lv.origin === undefined ? {} : { origin: link(lv.origin) }),
      descendants: lv.descendants.map(link),
    })),
  };
}
