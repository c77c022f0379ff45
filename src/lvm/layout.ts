/**
 * lv_role and lv_layout: the words by which LVM2 says what an LV is for and how it is made.
 *
 * Invariants
 *  - Words and their order are LVM2's (observed with 2.03.16 on every kind of LV of the samples and golden volume groups).
 *  - A role list starts with "public" or "private"; a layout list is never empty.
 */
import type { Segment } from '../ondisk/metadata.ts';
import type { ReferenceKind } from './references.ts';
import { isPvmove, segmentTypeName } from './relations.ts';
import type { LvFacts, LvUse, VgRelations } from './relations.ts';

/** What an LV is for (`lv_role`). */
export function lvRoles(relations: VgRelations, facts: LvFacts): readonly string[] {
  const part = partRoles(relations, facts);
  const roles = [isPrivate(facts, part) ? 'private' : 'public', ...part];
  pushOrigins(roles, facts, 'thin-origin', 'thinorigin');
  pushOrigins(roles, facts, 'external-origin', 'extthinorigin');
  if (facts.uses.some((use) => use.kind === 'thin-origin' || use.kind === 'external-origin')) {
    roles.push('snapshot', 'thinsnapshot');
  }
  if (facts.snapshots.length > 0) roles.push('origin', 'thickorigin');
  if (facts.snapshots.length > 1) roles.push('multithickorigin');
  if (facts.snapshot !== null) roles.push('snapshot', 'thicksnapshot');
  return [...new Set(roles)];
}

/** How an LV is made (`lv_layout`). */
export function lvLayout(facts: LvFacts): readonly string[] {
  const cachevol = facts.usedBy.find((use) => isCachevolUse(facts, use));
  if (cachevol !== undefined) return [cachevol.kind === 'cache-pool' ? 'cache' : 'writecache', 'cachevol'];
  if (facts.virtualOrigin) return ['virtual'];
  const first = facts.lv.segments[0];
  const whole = first === undefined ? null : typeLayout(first);
  if (whole !== null) return whole;
  const names = new Set(facts.lv.segments.map(segmentTypeName));
  const plain = ['linear', 'striped'].filter((name) => names.has(name));
  return plain.length === 0 ? ['unknown'] : plain;
}

/** Whether a use makes the LV a cachevol: a cache's or writecache's fast LV that is no pool of its own. */
export function isCachevolUse(facts: LvFacts, use: LvUse): boolean {
  return use.kind === 'writecache-cache' || (use.kind === 'cache-pool' && facts.lv.segments[0]?.type !== 'cache-pool');
}

function isPrivate(facts: LvFacts, part: readonly string[]): boolean {
  if (part.length > 0 || facts.virtualOrigin) return true;
  if (facts.usedBy.some((use) => isCachevolUse(facts, use))) return true;
  const type = facts.lv.segments[0]?.type;
  return type === 'thin-pool' || type === 'cache-pool' || type === 'vdo-pool';
}

/** Role words of an LV that is a part of another; none for one that stands by itself. */
function partRoles(relations: VgRelations, facts: LvFacts): readonly string[] {
  const hidden = !facts.lv.status.includes('VISIBLE');
  if (isPvmove(facts.lv)) return ['pvmove'];
  if (hidden && facts.name.endsWith('_pmspare')) return ['pool', 'spare'];
  if (hidden && facts.name === 'lvmlock') return ['lockd', 'sanlock'];
  for (const use of facts.usedBy) {
    if (use.kind === 'pool-data') return [poolFamily(relations, use), 'pool', 'data'];
    if (use.kind === 'pool-metadata') return [poolFamily(relations, use), 'pool', 'metadata'];
    const roles = PART_ROLES[use.kind];
    if (roles !== undefined) return roles;
  }
  return [];
}

const PART_ROLES: Readonly<Partial<Record<ReferenceKind, readonly string[]>>> = {
  'mirror-image': ['mirror', 'image'],
  'mirror-log': ['mirror', 'log'],
  'raid-image': ['raid', 'image'],
  'raid-metadata': ['raid', 'metadata'],
  'cache-origin': ['cache', 'origin', 'cacheorigin'],
  'writecache-origin': ['writecache', 'origin', 'writecacheorigin'],
  'integrity-origin': ['integrity', 'origin', 'integrityorigin'],
  'integrity-metadata': ['integrity', 'metadata'],
};

function poolFamily(relations: VgRelations, use: LvUse): string {
  const type = relations.lvs.get(use.user)?.lv.segments[0]?.type;
  if (type === 'cache-pool') return 'cache';
  return type === 'vdo-pool' ? 'vdo' : 'thin';
}

function pushOrigins(roles: string[], facts: LvFacts, kind: LvUse['kind'], word: string): void {
  const count = facts.usedBy.filter((use) => use.kind === kind).length;
  if (count > 0) roles.push('origin', word);
  if (count > 1) roles.push(`multi${word}`);
}

/** Layout of the types that are told by the first segment; null for linear, striped and what has no word. */
function typeLayout(segment: Segment): readonly string[] | null {
  if (segment.type === 'raid') return raidLayout(segment.raidType);
  return TYPE_LAYOUTS[segment.type] ?? null;
}

const TYPE_LAYOUTS: Readonly<Partial<Record<Segment['type'], readonly string[]>>> = {
  mirror: ['mirror'],
  raid0: ['raid', 'raid0'],
  thin: ['thin', 'sparse'],
  'thin-pool': ['thin', 'pool'],
  cache: ['cache'],
  'cache-pool': ['cache', 'pool'],
  writecache: ['writecache'],
  vdo: ['vdo', 'sparse'],
  'vdo-pool': ['vdo', 'pool'],
  integrity: ['integrity'],
};

/** Layouts that LVM2 names besides their level; plain raid5 and raid6 are their defaults. */
const NAMED_RAID_LAYOUTS: Readonly<Record<string, string>> = {
  raid5: 'raid5_ls',
  raid5_ls: 'raid5_ls',
  raid5_la: 'raid5_la',
  raid5_ra: 'raid5_ra',
  raid5_rs: 'raid5_rs',
  raid6: 'raid6_zr',
  raid6_zr: 'raid6_zr',
  raid6_nr: 'raid6_nr',
  raid6_nc: 'raid6_nc',
};

function raidLayout(raidType: string): readonly string[] {
  const level = /^raid(?:10|\d)/.exec(raidType)?.[0];
  if (level === undefined || raidType === 'raid0_meta') return ['raid'];
  const named = NAMED_RAID_LAYOUTS[raidType];
  return named === undefined ? ['raid', level] : ['raid', level, named];
}
