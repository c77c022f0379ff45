/**
 * lvextend, lvreduce and lvresize: more or fewer extents at the end of an LV.
 *
 * Invariants
 *  - What is added continues the last segment's stripes unless the user says otherwise; what is cut ends on whole stripes.
 *  - LVs whose data depends on more than their own extents (mirrors, pools …) are refused, not half resized. Of a COW snapshot the
 *    store is resized, while it is in use if need be.
 *  - The checks come in LVM2's order, so that the first thing that is wrong is what LVM2 names.
 *
 * Source: lvresize(8); messages and rounding as of lvresize 2.03.16.
 */
import type { AllocationPolicy, LogicalVolumeText, Segment } from '../../ondisk/metadata.ts';
import { allocate } from '../allocate/allocate.ts';
import { allCandidates, type FindPv, namedCandidates } from '../allocate/pv-list.ts';
import type { AllocationSettings, CandidatePv } from '../allocate/request.ts';
import { cutTo, sizeOf, withStripes, withVirtual } from '../allocate/segments.ts';
import type { VolumeGroup } from '../model.ts';
import type { LvFacts } from '../relations.ts';
import { CommandError } from './errors.ts';
import { discardsOf } from './lv-freed.ts';
import { complexity, displayName, lvFacts, policyOf, replaceLv } from './lv-facts.ts';
import type { Notes } from './lv-notes.ts';
import { newSize, type NewSize, type ResizeSize } from './lv-resize-size.ts';
import { emptyPlan, type Plan } from './plan.ts';

export interface LvResizeRequest {
  readonly lvName: string;
  /** What the command is for; lvresize: either. */
  readonly direction: 'extend' | 'reduce' | 'any';
  readonly size: ResizeSize;
  /** Of the new segment; null: as the last one. */
  readonly type: 'striped' | 'error' | 'zero' | null;
  /** 0: as before. */
  readonly stripes: number;
  /** Sectors; 0: as before. */
  readonly stripeSizeSectors: number;
  /** Where neither the user nor the LV says. */
  readonly defaultStripeSectors: number;
  /** Mirror images asked for; 0: as before. */
  readonly mirrors: number;
  /** Null: the LV's. */
  readonly policy: AllocationPolicy | null;
  /** PVs as typed; empty: any. */
  readonly pvs: readonly string[];
  readonly findPv: FindPv;
  /** It is served: then an origin can't be resized. */
  readonly active?: boolean;
  /** A file system is to be resized too, which makes an unchanged size no error. */
  readonly resizeFs: boolean;
  /** `devices/issue_discards`: discard what is given back. */
  readonly issueDiscards: boolean;
  readonly settings: AllocationSettings;
}

export interface LvResize {
  /** Null: the size stays as it is. */
  readonly plan: Plan | null;
  /** Those of the plan, also when there is none. */
  readonly messages: Plan['messages'];
  readonly change: 'extend' | 'reduce';
  /** Extents. */
  readonly before: number;
  readonly after: number;
}

/** Stripe sizes are powers of two up to this: 2^31 sectors. */
const STRIPE_SIZE_LIMIT = 2 ** 31;

/** Throws CommandError (5). */
export function resizeLv(group: VolumeGroup, request: LvResizeRequest, notes: Notes): LvResize {
  const { vg } = group;
  const facts = lvFacts(vg, request.lvName);
  if (facts === null || facts.snapshotRecord) {
    throw new CommandError(`Logical volume ${request.lvName} not found in volume group ${vg.name}.`);
  }
  const candidates =
    request.pvs.length === 0 ? null : namedCandidates(group, request.pvs, (line) => notes.warn(line), request.findPv);
  refuseUnresizable(group, facts, request.resizeFs);
  const asked = { ...request, stripeSizeSectors: stripeSize(group, request, notes) };
  const wanted = newSize({ vg, facts, candidates, ...asked }, notes);
  refuseOfOrigin(facts, wanted.change, request.active ?? false);
  if (wanted.change === 'reduce' && candidates !== null) notes.print('Ignoring PVs on command line when reducing.');
  const before = facts.sizeExtents;
  const segments = wanted.extents < before ? reduced(facts, wanted) : extended(group, facts, wanted, asked, candidates);
  return { ...finish(group, facts, segments, request.issueDiscards, notes), change: wanted.change };
}

function finish(
  group: VolumeGroup,
  { lv, sizeExtents }: LvFacts,
  segments: readonly Segment[],
  issueDiscards: boolean,
  notes: Notes,
): Omit<LvResize, 'change'> {
  const { vg } = group;
  const name = displayName(vg, lv);
  const show = (extents: number): string => `${notes.size(extents * vg.extentSizeSectors)} (${extents} extents)`;
  const after = sizeOf(segments);
  const done = `Logical volume ${name} successfully resized.`;
  if (after === sizeExtents) {
    notes.print(`Size of logical volume ${name} unchanged from ${show(sizeExtents)}.`);
    notes.done(done);
    return { plan: null, messages: notes.messages, before: sizeExtents, after };
  }
  notes.print(`Size of logical volume ${name} changed from ${show(sizeExtents)} to ${show(after)}.`);
  notes.done(done);
  const changed = replaceLv(vg, lv.name, { ...lv, segments });
  const effects = issueDiscards ? discardsOf(group, changed) : [];
  const plan = { ...emptyPlan(group, changed), effects, messages: notes.messages };
  return { plan, messages: notes.messages, before: sizeExtents, after };
}

function refuseUnresizable({ vg }: VolumeGroup, facts: LvFacts, resizeFs: boolean): void {
  const { lv } = facts;
  const name = displayName(vg, lv);
  if (facts.usedBy.some((use) => use.kind === 'external-origin')) {
    throw new CommandError(`Cannot resize external origin logical volume ${name}.`);
  }
  const raid = facts.usedBy.find((use) => use.kind === 'raid-image' || use.kind === 'raid-metadata');
  if (raid !== undefined) {
    throw new CommandError(`Cannot resize a RAID ${raid.kind === 'raid-image' ? 'image' : 'metadata area'} directly`);
  }
  if (!facts.visible) throw new CommandError(`Can't resize internal logical volume ${name}.`);
  if (lv.status.includes('LOCKED')) throw new CommandError(`Can't resize locked logical volume ${name}.`);
  if (resizeFs && facts.snapshot !== null) {
    throw new CommandError(`Cannot resize the file system of snapshot ${name}: its size is that of its origin.`);
  }
  const problem = complexity(vg, facts);
  if (problem !== null) throw new CommandError(`Cannot resize logical volume ${name}: ${problem}.`);
}

function refuseOfOrigin({ snapshots }: LvFacts, change: NewSize['change'], active: boolean): void {
  if (snapshots.length === 0) return;
  if (change === 'reduce') throw new CommandError('Snapshot origin volumes cannot be reduced in size yet.');
  if (active) {
    throw new CommandError('Snapshot origin volumes can be resized only while inactive: try lvchange -an.');
  }
}

/** The stripe size asked for, within what the VG allows. */
function stripeSize({ vg }: VolumeGroup, request: LvResizeRequest, notes: Notes): number {
  const { stripeSizeSectors: asked } = request;
  if (asked > STRIPE_SIZE_LIMIT) {
    throw new CommandError(`Stripe size cannot be larger than ${notes.size(STRIPE_SIZE_LIMIT / 2)}.`);
  }
  const size = Math.min(asked, vg.extentSizeSectors);
  if (size < asked) {
    const most = notes.size(vg.extentSizeSectors);
    notes.print(`Reducing stripe size ${notes.size(asked)} to maximum, physical extent size ${most}.`);
  }
  if (!Number.isInteger(Math.log2(Math.max(size, 1)))) throw new CommandError('Stripe size must be power of 2.');
  return size;
}

function reduced({ lv }: LvFacts, { extents }: NewSize): readonly Segment[] {
  try {
    return cutTo(lv.segments, extents);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new CommandError(`Cannot reduce ${lv.name} to ${extents} extents: ${error.message}.`, 5, { cause: error });
  }
}

function extended(
  group: VolumeGroup,
  { lv, sizeExtents }: LvFacts,
  wanted: NewSize,
  request: LvResizeRequest,
  candidates: readonly CandidatePv[] | null,
): readonly Segment[] {
  const extents = wanted.extents - sizeExtents;
  if (extents === 0) return lv.segments;
  if (wanted.type !== 'striped') return withVirtual(lv, wanted.type, extents);
  const stripes = Math.max(wanted.stripes, 1);
  const { rows } = allocate({
    vg: group.vg,
    candidates: candidates ?? allCandidates(group),
    policy: policyOf(group.vg, policyFor(request, lv)),
    extents,
    areaCount: stripes,
    areaMultiple: stripes,
    extending: lv,
    approximate: wanted.approximate,
    lvName: lv.name,
    settings: request.settings,
  });
  return withStripes(lv, rows, wanted.stripeSizeSectors);
}

function policyFor({ policy }: LvResizeRequest, lv: LogicalVolumeText): AllocationPolicy | undefined {
  return policy ?? lv.allocationPolicy;
}
