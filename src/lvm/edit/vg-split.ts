/**
 * vgsplit: PVs, and the LVs on them, go from one volume group to a new or an existing one (facts: LVM2 tools/vgsplit.c).
 *
 * LVM2's order, in which a crash loses nothing:
 *
 *     1  the destination with what moves, EXPORTED      a crash here: the PVs still count as the old group's
 *     2  the old group without it                       a crash here: `vgimport` the destination
 *     3  the destination, no longer EXPORTED
 *
 * Invariants
 *  - LVs that are tied together (sub LVs, snapshots and origins, thin volumes and pools, caches) move together or not at all;
 *    none is ever on PVs of both groups.
 *  - Both groups have a metadata area.
 */
import type { AllocationPolicy, VolumeGroupText } from '../../ondisk/metadata.ts';
import { type LvFacts, relationsOf, type VgRelations } from '../relations.ts';
import type { VolumeGroup } from '../model.ts';
import { CommandError } from './errors.ts';
import { ownPvs, splitRefusal } from './split-refusal.ts';
import { emptyPlan, type Effect, type Plan, type PlanMessage } from './plan.ts';
import { type SpareContext, withOneSpare, withPoolSpare } from './pool-spare.ts';
import { asExported, checkCompatible, foundDevices, labelledByIds, withoutParts, withParts } from './vg-parts.ts';

/** What vgsplit may say of a new group. */
export interface NewGroupOptions {
  readonly name: string;
  readonly id: string;
  /** Absent: as in the old group. */
  readonly allocationPolicy?: AllocationPolicy;
  readonly maxLv?: number;
  readonly maxPv?: number;
  readonly metadataCopies: number;
}

export interface SplitRequest {
  readonly from: VolumeGroup;
  /** An existing group, or what a new one is to be. */
  readonly to: VolumeGroup | NewGroupOptions;
  /** What moves: PVs by uuid, or the PVs that an LV uses. */
  readonly what: { readonly pvs: readonly string[] } | { readonly lvName: string };
  readonly spare: SpareContext;
}

/** The first two commits; the third one un-exports what the first one gave (`importSplit`). */
export interface SplitPlans {
  readonly exported: Plan;
  /** Null: nothing is left of the old group. */
  readonly remaining: Plan | null;
}

/** Throws CommandError with LVM2's reasons. */
export function splitPlans({ from, to, what, spare }: SplitRequest): SplitPlans {
  const existing = 'vg' in to ? to : null;
  const texts = withOneSpare(from.vg, 'vg' in to ? to.vg : newGroup(to, from.vg));
  if (existing !== null) checkCompatible(texts.from, texts.to);
  checkResizeable(texts.from, 'from');
  checkResizeable(texts.to, 'to');
  const moving = new Set('pvs' in what ? what.pvs : pvsOfLv(texts.from, what.lvName));
  const volumes = movingVolumes(texts.from, moving);
  const left = withoutParts(labelledByIds(texts.from), moving, volumes);
  checkAreas(from, existing, moving, left);
  const source = labelledByIds(texts.from);
  const pvs = new Map(source.physicalVolumes.map((pv) => [pv.id, pv]));
  const joined = withParts(
    labelledByIds(texts.to),
    // In the order in which they were named, which is the order in which extents are given out.
    [...moving].flatMap((id) => pvs.get(id) ?? []),
    source.logicalVolumes.filter((lv) => volumes.has(lv.name)),
  );
  const spareOfNew = withPoolSpare(joined, spare);
  const spareOfOld = left.physicalVolumes.length === 0 ? null : withPoolSpare(left, spare);
  const exported: Plan = {
    ...emptyPlan(existing, asExported(spareOfNew.vg, true)),
    joining: foundDevices(from, moving),
    effects: wipesOf(spareOfNew.changed),
    messages: warningsOf(spareOfNew.warnings),
  };
  if (spareOfOld === null) return { exported, remaining: null };
  const remaining: Plan = {
    ...emptyPlan(from, spareOfOld.vg),
    movedAway: [...moving],
    effects: wipesOf(spareOfOld.changed),
    messages: warningsOf(spareOfOld.warnings),
  };
  return { exported, remaining };
}

/** The last commit: the destination as the first one left it, no longer exported. */
export function importSplit(group: VolumeGroup, from: string, existed: boolean): Plan {
  const kind = existed ? 'Existing' : 'New';
  const text = `${kind} volume group "${group.vg.name}" successfully split from "${from}"`;
  return {
    ...emptyPlan(group, asExported(group.vg, false)),
    messages: [{ stream: 'stdout', when: 'after', text }],
  };
}

function wipesOf(lvName: string | null): readonly Effect[] {
  return lvName === null ? [] : [{ kind: 'wipe-lv', lvName, zeroBytes: 4096, signatures: false }];
}

function warningsOf(lines: readonly string[]): readonly PlanMessage[] {
  return lines.map((text) => ({ stream: 'stderr', when: 'before', text }));
}

function newGroup(options: NewGroupOptions, from: VolumeGroupText): VolumeGroupText {
  const { systemId, extentSizeSectors } = from;
  const allocationPolicy = options.allocationPolicy ?? from.allocationPolicy ?? 'normal';
  return {
    name: options.name,
    id: options.id,
    seqno: 1,
    format: 'lvm2',
    status: ['RESIZEABLE', 'READ', 'WRITE'],
    flags: [],
    tags: [],
    ...(systemId === undefined ? {} : { systemId }),
    extentSizeSectors,
    maxLv: options.maxLv ?? from.maxLv,
    maxPv: options.maxPv ?? from.maxPv,
    ...(allocationPolicy === 'normal' ? {} : { allocationPolicy }),
    metadataCopies: options.metadataCopies,
    physicalVolumes: [],
    logicalVolumes: [],
    historicalLogicalVolumes: [],
    extra: [],
  };
}

function checkResizeable(vg: VolumeGroupText, direction: 'from' | 'to'): void {
  if (vg.status.includes('RESIZEABLE')) return;
  throw new CommandError([
    `Volume group ${vg.name} is not resizeable.`,
    `Cannot move PV(s) ${direction} non resize volume group ${vg.name}.`,
  ]);
}

/** Ids of the PVs under an LV and all that it is built on. */
function pvsOfLv(vg: VolumeGroupText, lvName: string): readonly string[] {
  const relations = relationsOf(vg);
  const facts = relations.lvs.get(lvName);
  if (facts === undefined) throw new CommandError(`Logical volume ${lvName} not in volume group ${vg.name}`);
  const pvs = new Set<string>();
  const seen = new Set<string>();
  const pending = [lvName];
  for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
    const lv = relations.lvs.get(name);
    if (lv === undefined || seen.has(name)) continue;
    seen.add(name);
    for (const id of ownPvs(relations, lv)) pvs.add(id);
    for (const use of lv.uses) if (use.kind !== 'thin-origin') pending.push(use.name);
  }
  return [...pvs];
}

/** Names of the LVs that go with the PVs. Throws CommandError if some LV would be on both sides. */
function movingVolumes(vg: VolumeGroupText, moving: ReadonlySet<string>): ReadonlySet<string> {
  const relations = relationsOf(vg);
  const everything = vg.physicalVolumes.every((pv) => moving.has(pv.id));
  const names = new Set<string>();
  for (const bundle of bundlesOf(relations)) {
    const pvs = bundle.flatMap((facts) => ownPvs(relations, facts));
    const going = pvs.filter((id) => moving.has(id)).length;
    if (going > 0 && going < pvs.length) throw new CommandError(splitRefusal(relations, bundle, moving));
    if (everything || going > 0 || isNowhere(bundle)) for (const { name } of bundle) names.add(name);
  }
  return names;
}

/** An LV on no PV at all (error, zero): LVM2 takes it along, whatever moves. */
function isNowhere(bundle: readonly LvFacts[]): boolean {
  return bundle.every(({ lv }) => lv.segments.every(({ type }) => type === 'error' || type === 'zero'));
}

/** LVs in groups of those that are tied together, in the text's order. */
function bundlesOf(relations: VgRelations): readonly (readonly LvFacts[])[] {
  const seen = new Set<string>();
  const bundles: LvFacts[][] = [];
  for (const first of relations.lvs.keys()) {
    const names: string[] = [];
    const pending = [first];
    for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
      const facts = relations.lvs.get(name);
      if (facts === undefined || seen.has(name)) continue;
      seen.add(name);
      names.push(name);
      pending.push(...facts.uses.map((use) => use.name), ...facts.usedBy.map((use) => use.user));
    }
    if (names.length > 0) bundles.push(names.flatMap((name) => relations.lvs.get(name) ?? []));
  }
  return bundles;
}

function checkAreas(
  from: VolumeGroup,
  existing: VolumeGroup | null,
  moving: ReadonlySet<string>,
  left: VolumeGroupText,
): void {
  if (left.physicalVolumes.length === 0) return;
  const ofOld = areasOf(from, (id) => !moving.has(id));
  const ofNew = areasOf(from, (id) => moving.has(id)) + (existing === null ? 0 : areasOf(existing, () => true));
  if (ofOld > 0 && ofNew > 0) return;
  throw new CommandError('Cannot split: Nowhere to store metadata for new Volume Group');
}

function areasOf(group: VolumeGroup, counts: (id: string) => boolean): number {
  const pvs = group.pvs.filter((pv) => counts(pv.uuid));
  return pvs.reduce((sum, pv) => sum + (pv.found?.metadataAreas.length ?? 0), 0);
}
