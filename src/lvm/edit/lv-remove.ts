/**
 * lvremove: LVs and what hangs on them taken out of a volume group.
 *
 * Invariants
 *  - An LV goes with its parts (images, logs, metadata, caches), and never leaves one behind or a name that leads nowhere.
 *  - What depends on it goes first: snapshots with their origin, thin volumes with their pool (after a question).
 *  - A single thin volume is refused: its pool has to be told, which needs the pool's own metadata.
 *
 * Source: lvremove(8); messages and prompts of lvremove 2.03.16.
 */
import type { HistoricalLogicalVolumeText, VolumeGroupText } from '../../ondisk/metadata.ts';
import { isComponentKind } from '../references.ts';
import { relationsOf, type LvFacts } from '../relations.ts';
import { CommandError } from './errors.ts';
import { displayName } from './lv-facts.ts';

/** Asks a question that ends in "[y/n]: ". */
export type Confirm = (question: string) => Promise<boolean>;

export interface Removal {
  readonly vg: VolumeGroupText;
  /** What went, in order, with its parts. */
  readonly removed: readonly string[];
  /** "Logical volume … successfully removed." */
  readonly lines: readonly string[];
}

/** Removes an LV that the user named. Throws CommandError (5). */
export async function removeLv(vg: VolumeGroupText, name: string, confirm: Confirm): Promise<Removal> {
  const facts = relationsOf(vg).lvs.get(name);
  if (facts === undefined || facts.snapshotRecord) {
    throw new CommandError(`Failed to find logical volume "${vg.name}/${name}"`);
  }
  refuseMerging(vg, facts);
  const sparse = facts.snapshot === null ? undefined : relationsOf(vg).lvs.get(facts.snapshot.origin);
  return removeTree(vg, sparse?.virtualOrigin === true ? sparse.name : name, { confirm, doomed: new Set() });
}

/** What goes on around the removal of one LV. */
interface Around {
  readonly confirm: Confirm;
  /** LVs that are going to be removed after this one. */
  readonly doomed: ReadonlySet<string>;
}

/** Removes a remembered LV. Throws CommandError (5). */
export function removeHistoricalLv(vg: VolumeGroupText, name: string): Removal {
  const gone = vg.historicalLogicalVolumes.find((lv) => (lv.name ?? lv.label) === name);
  if (gone === undefined) throw new CommandError(`Failed to find logical volume "${vg.name}/-${name}"`);
  const link = `-${name}`;
  const historicalLogicalVolumes = vg.historicalLogicalVolumes
    .filter((lv) => lv !== gone)
    .map((lv) => unlinked(lv, link));
  return {
    vg: { ...vg, historicalLogicalVolumes },
    removed: [name],
    lines: [`Historical logical volume "${name}" successfully removed.`],
  };
}

/** A remembered LV without its ties to one that is forgotten. */
function unlinked({ origin, ...lv }: HistoricalLogicalVolumeText, link: string): HistoricalLogicalVolumeText {
  const descendants = lv.descendants.filter((other) => other !== link);
  return origin === undefined || origin === link ? { ...lv, descendants } : { ...lv, origin, descendants };
}

function refuseMerging(vg: VolumeGroupText, { lv, snapshot }: LvFacts): void {
  if (snapshot?.segment.merging === true) {
    throw new CommandError(`Can't remove merging snapshot logical volume ${displayName(vg, lv)}.`);
  }
  const first = lv.segments[0];
  if (first?.type === 'thin' && first.merge !== undefined) {
    throw new CommandError(`Unable to remove ${displayName(vg, lv)}, volume is merged to ${vg.name}/${first.merge}.`);
  }
}

/** An LV with its dependents; names may already be gone. */
async function removeTree(vg: VolumeGroupText, name: string, around: Around): Promise<Removal> {
  let result: Removal = { vg, removed: [], lines: [] };
  const facts = relationsOf(vg).lvs.get(name);
  if (facts === undefined) return result;
  const inside = { ...around, doomed: new Set([...around.doomed, name]) };
  for (const { cow } of facts.snapshots) result = await also(result, cow, inside);
  const dependents = await dependentsOf(vg, facts, around.confirm);
  for (const dependent of dependents) result = await also(result, dependent, inside);
  return together(result, removeSingle(result.vg, name, around.doomed));
}

async function also(done: Removal, name: string, around: Around): Promise<Removal> {
  return together(done, await removeTree(done.vg, name, around));
}

function together(first: Removal, second: Removal): Removal {
  return {
    vg: second.vg,
    removed: [...first.removed, ...second.removed],
    lines: [...first.lines, ...second.lines],
  };
}

/** Volumes that can't be without this one, after asking. */
async function dependentsOf(vg: VolumeGroupText, facts: LvFacts, confirm: Confirm): Promise<readonly string[]> {
  const kinds = {
    'external-origin': 'external origin',
    'thin-pool': 'pool',
    'vdo-pool': 'VDO pool',
    'cache-origin': 'cache origin',
    'writecache-origin': 'cache origin',
  } as const;
  for (const [kind, word] of Object.entries(kinds)) {
    const users = facts.usedBy.filter((use) => use.kind === kind).map((use) => use.user);
    if (users.length === 0) continue;
    const name = displayName(vg, facts.lv);
    const question = `Removing ${word} ${name} will remove ${users.length} dependent volume(s). Proceed? [y/n]: `;
    if (!(await confirm(question))) throw new CommandError(`Logical volume ${name} not removed.`);
    return users;
  }
  return [];
}

/** An LV that nothing depends on any more, with its parts. */
function removeSingle(vg: VolumeGroupText, name: string, doomed: ReadonlySet<string>): Removal {
  const facts = relationsOf(vg).lvs.get(name);
  if (facts === undefined) return { vg, removed: [], lines: [] };
  refuseUnremovable(vg, facts, doomed);
  const gone = partsOf(vg, facts);
  if (facts.snapshot !== null) gone.add(facts.snapshot.record);
  const spare = uselessSpare(vg, gone);
  if (spare !== null) gone.add(spare);
  const after = { ...vg, logicalVolumes: vg.logicalVolumes.filter((lv) => !gone.has(lv.name)) };
  const lines = facts.visible ? [`Logical volume "${name}" successfully removed.`] : [];
  return { vg: after, removed: [...gone], lines };
}

function refuseUnremovable(vg: VolumeGroupText, facts: LvFacts, doomed: ReadonlySet<string>): void {
  const name = displayName(vg, facts.lv);
  const used = facts.usedBy.map((use) => use.kind);
  const by = (...kinds: readonly string[]): boolean => used.some((kind) => kinds.includes(kind));
  if (facts.snapshots.length > 0) throw new CommandError(`Can't remove logical volume ${name} under snapshot.`);
  if (by('external-origin')) throw new CommandError(`Can't remove external origin logical volume ${name}.`);
  if (by('mirror-image')) throw new CommandError(`Can't remove logical volume ${name} used by a mirror.`);
  if (by('mirror-log')) throw new CommandError(`Can't remove logical volume ${name} used as mirror log.`);
  if (by('raid-image', 'raid-metadata')) {
    throw new CommandError(`Can't remove logical volume ${name} used as RAID device.`);
  }
  if (by('pool-data', 'pool-metadata')) throw new CommandError(`Can't remove logical volume ${name} used by a pool.`);
  if (facts.lv.status.includes('LOCKED')) throw new CommandError(`Can't remove locked logical volume ${name}.`);
  const other = facts.usedBy.find((use) => isComponentKind(use.kind) && use.kind !== 'snapshot-cow');
  if (other !== undefined) {
    throw new CommandError(`Can't remove logical volume ${name}: it is part of ${vg.name}/${other.user}.`);
  }
  refuseThin(vg, facts, doomed);
}

/** A thin volume's blocks are its pool's to free; with the pool itself gone there is nothing to free. */
function refuseThin(vg: VolumeGroupText, { lv, uses }: LvFacts, doomed: ReadonlySet<string>): void {
  const pool = uses.find((use) => use.kind === 'thin-pool')?.name;
  if (pool !== undefined && !doomed.has(pool)) {
    throw new CommandError(
      `Cannot remove thin volume ${displayName(vg, lv)} from pool ${vg.name}/${pool}: LV type thin is not supported yet.`,
    );
  }
}

/** An LV and whatever is part of it and of nothing else. */
function partsOf(vg: VolumeGroupText, facts: LvFacts): Set<string> {
  const { lvs } = relationsOf(vg);
  const gone = new Set([facts.name]);
  const pending = [facts];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    for (const { name, kind } of next.uses) {
      const part = lvs.get(name);
      if (part === undefined || gone.has(name) || !(isComponentKind(kind) || kind === 'area')) continue;
      if (part.usedBy.some((use) => !gone.has(use.user))) continue;
      gone.add(name);
      pending.push(part);
    }
  }
  return gone;
}

const POOLED: ReadonlySet<string> = new Set(['thin-pool', 'cache-pool', 'cache', 'thin']);

/** The metadata spare, when the last pool goes. */
function uselessSpare(vg: VolumeGroupText, gone: ReadonlySet<string>): string | null {
  const all = [...relationsOf(vg).lvs.values()];
  const pooled = all.filter((facts) => POOLED.has(facts.lv.segments[0]?.type ?? ''));
  if (pooled.length === 0 || pooled.some((facts) => !gone.has(facts.name))) return null;
  return all.find((facts) => facts.name.endsWith('_pmspare') && !facts.visible)?.name ?? null;
}
