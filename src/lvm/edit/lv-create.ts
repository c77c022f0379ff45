/**
 * lvcreate: a new LV, linear, striped, error or zero.
 *
 * Invariants
 *  - The checks come in LVM2's order, so that the first thing that is wrong is what LVM2 names.
 *  - The new LV is the last one of the text; its extents were free.
 *
 * Source: lvcreate(8); messages and their order as of lvcreate 2.03.16.
 */
import { isListed, passesVolumeList } from '../volume-list.ts';
import { newUuid } from '../../ondisk/uuid.ts';
import type { AllocationPolicy, LogicalVolumeText, Segment } from '../../ondisk/metadata.ts';
import { allocate } from '../allocate/allocate.ts';
import { freeExtentsOf } from '../allocate/free-areas.ts';
import { allCandidates, type FindPv, namedCandidates } from '../allocate/pv-list.ts';
import type { AllocationSettings, CandidatePv } from '../allocate/request.ts';
import { withStripes, withVirtual } from '../allocate/segments.ts';
import { allocationMapOf } from '../allocation-map.ts';
import type { VolumeGroup } from '../model.ts';
import { relationsOf } from '../relations.ts';
import { CommandError } from './errors.ts';
import { displayName, freeExtents, MAX_EXTENTS, policyOf } from './lv-facts.ts';
import { generatedName, nameUse } from './lv-names.ts';
import type { Notes } from './lv-notes.ts';
import { type Effect, emptyPlan, type Plan } from './plan.ts';

/** How large: sectors, extents, or a part of something. */
export type NewSize =
  | { readonly kind: 'sectors'; readonly sectors: number }
  | { readonly kind: 'extents'; readonly count: number }
  | { readonly kind: 'percent'; readonly percent: number; readonly of: 'VG' | 'FREE' | 'PVS' | 'ORIGIN' };

/** What the size of a COW store depends on (lv-snapshot.ts). */
export interface StoreNeeds {
  /** Sectors. */
  readonly chunkSectors: number;
  /** Of the origin; null: it is a virtual one, whose store may be of any size. */
  readonly origin: {
    readonly extents: number;
    /** Extents of a store that never fills up. */
    readonly mostExtents: number;
  } | null;
}

type PercentSize = Extract<NewSize, { readonly kind: 'percent' }>;

export interface LvCreateRequest {
  /** Null: make one up. */
  readonly name: string | null;
  readonly type: 'striped' | 'error' | 'zero';
  readonly size: NewSize;
  /** 1: linear. */
  readonly stripes: number;
  /** Sectors; 0 with one stripe. */
  readonly stripeSizeSectors: number;
  readonly policy: AllocationPolicy;
  /** PVs as typed; empty: any. */
  readonly pvs: readonly string[];
  readonly findPv: FindPv;
  readonly writable: boolean;
  /** Sectors, -1 for none; null: auto. */
  readonly readAhead: number | null;
  /** Persistent device numbers; null: none. */
  readonly device: { readonly major: number; readonly minor: number } | null;
  readonly tags: readonly string[];
  /** ACTIVATION_SKIP */
  readonly skipActivation: boolean;
  readonly noAutoActivate: boolean;
  /** Zero its first 4 KiB. */
  readonly zero: boolean;
  readonly wipeSignatures: boolean;
  /** It becomes the COW store of a snapshot, and is zeroed before the commit. Absent: it does not. */
  readonly store?: StoreNeeds;
  /** `activation/read_only_volume_list`: LVs that are only ever active read-only; null: not set. */
  readonly readOnlyVolumes: readonly string[] | null;
  /** `activation/volume_list`: LVs that may be active; null: not set. */
  readonly volumeList: readonly string[] | null;
  readonly hostTags: readonly string[];
  /** Unix seconds. */
  readonly now: number;
  readonly hostName: string;
  readonly settings: AllocationSettings;
}

/** What of a new LV is zeroed: where most file systems, labels and tables have their magic. */
export const ZEROED_HEAD_BYTES = 4096;
const SECTOR_BYTES = 512;
const MIN_STORE_CHUNKS = 3;

/** The plan for a new LV, and its name. Throws CommandError (5). */
export function createLv(
  group: VolumeGroup,
  request: LvCreateRequest,
  notes: Notes,
): { readonly plan: Plan; readonly lvName: string } {
  const { vg } = group;
  const { wanted, candidates } = wantedExtents(group, request, notes);
  if (request.name !== null) refuseUsedName(group, request.name);
  const stripeSizeSectors = stripeSize(group, request, notes);
  const extents = roundedToStripes(group, wanted, request.stripes, notes);
  if (request.store !== undefined) refuseSmallStore(group, request.store, extents, notes);
  refuseUnplaceable(group, request, extents, candidates);
  const name = request.name ?? generatedName(vg, 'lvol');
  refuseTooMany(group);
  const segments = segmentsFor(group, request, { name, extents, stripeSizeSectors, candidates });
  const lv = newLv(request, name, segments);
  const after = { ...vg, logicalVolumes: [...vg.logicalVolumes, lv] };
  const effects = wipes(group, request, lv, notes);
  notes.done(`Logical volume "${name}" created.`);
  return { plan: { ...emptyPlan(group, after), effects, messages: notes.messages }, lvName: name };
}

/** What the size asked for comes to, and the PVs (null: any). */
function wantedExtents(
  group: VolumeGroup,
  { size, pvs, findPv, ...request }: LvCreateRequest,
  notes: Notes,
): { readonly wanted: number; readonly candidates: readonly CandidatePv[] | null } {
  const typed =
    size.kind === 'sectors' ? extentsOfSize(group, size.sectors, notes) : size.kind === 'extents' ? size.count : 0;
  const candidates = pvs.length === 0 ? null : namedCandidates(group, pvs, (line) => notes.warn(line), findPv);
  if (size.kind !== 'percent') return { wanted: asStore(group, request, typed, notes), candidates };
  const extents = extentsOfPercent(group, size, { candidates, store: request.store }, notes);
  if (extents === 0) throw new CommandError('Calculated size of logical volume is 0 extents. Needs to be larger.');
  return { wanted: downToStripes(group, request, asStore(group, request, extents, notes), notes), candidates };
}

/** A COW store is no larger than it can ever be filled. */
function asStore(
  { vg }: VolumeGroup,
  { store }: Pick<LvCreateRequest, 'store'>,
  extents: number,
  notes: Notes,
): number {
  const most = store?.origin?.mostExtents ?? extents;
  if (extents <= most) return extents;
  const show = (count: number): string => notes.size(count * vg.extentSizeSectors);
  notes.print(`Reducing COW size ${show(extents)} down to maximum usable size ${show(most)}.`);
  return most;
}

/** A header, a metadata area and data: a chunk each. Throws CommandError (5). */
export function refuseSmallStore(
  { vg }: VolumeGroup,
  { chunkSectors }: Pick<StoreNeeds, 'chunkSectors'>,
  extents: number,
  notes: Notes,
): void {
  const least = MIN_STORE_CHUNKS * chunkSectors;
  if (extents * vg.extentSizeSectors >= least) return;
  const leastExtents = Math.ceil(least / vg.extentSizeSectors);
  throw new CommandError(
    `Snapshot volume cannot be smaller than ${MIN_STORE_CHUNKS} chunks (${leastExtents} extents, ${notes.size(least)}).`,
  );
}

function stripeSize({ vg }: VolumeGroup, { stripeSizeSectors: asked }: LvCreateRequest, notes: Notes): number {
  const most = vg.extentSizeSectors;
  if (asked <= most) return asked;
  notes.print(
    `Reducing requested stripe size ${notes.size(asked)} to maximum, physical extent size ${notes.size(most)}.`,
  );
  return most;
}

/** What can be told without looking for a place. */
function refuseUnplaceable(
  { vg }: VolumeGroup,
  { policy, stripes, size, type }: LvCreateRequest,
  extents: number,
  candidates: readonly CandidatePv[] | null,
): void {
  const pvCount = candidates?.length ?? vg.physicalVolumes.length;
  if (policy !== 'anywhere' && stripes > pvCount) {
    throw new CommandError(`Number of stripes (${stripes}) must not exceed number of physical volumes (${pvCount})`);
  }
  if (type === 'striped' && size.kind !== 'percent' && freeExtents(vg) < extents) {
    throw new CommandError(
      `Volume group "${vg.name}" has insufficient free space (${freeExtents(vg)} extents): ${extents} required.`,
    );
  }
}

function refuseUsedName({ vg }: VolumeGroup, name: string): void {
  const use = nameUse(vg, name);
  if (use === null) return;
  const what = use === 'historical' ? 'historical Logical Volume' : 'Logical Volume';
  throw new CommandError(`${what} "${name}" already exists in volume group "${vg.name}"`);
}

/** VGs may have a limit of visible LVs. */
function refuseTooMany({ vg }: VolumeGroup): void {
  const visible = [...relationsOf(vg).lvs.values()].filter((facts) => facts.visible).length;
  if (vg.maxLv > 0 && visible >= vg.maxLv) {
    throw new CommandError(`Maximum number of logical volumes (${vg.maxLv}) reached in volume group ${vg.name}`);
  }
}

/** Whole extents for a size in sectors; a part of one counts as one. Throws CommandError (5). */
export function extentsOfSize({ vg }: VolumeGroup, sectors: number, notes: Notes): number {
  const { extentSizeSectors } = vg;
  const extents = Math.ceil(sectors / extentSizeSectors);
  const whole = extents * extentSizeSectors;
  if (whole !== sectors) notes.print(`Rounding up size to full physical extent ${notes.size(whole)}`);
  if (extents <= MAX_EXTENTS) return extents;
  const most = notes.size(MAX_EXTENTS * extentSizeSectors);
  throw new CommandError(
    `Volume too large (${notes.size(whole)}) for extent size ${notes.size(extentSizeSectors)}. Upper limit is less than ${most}.`,
  );
}

function extentsOfPercent(
  { vg }: VolumeGroup,
  { percent, of }: PercentSize,
  { candidates, store }: { readonly candidates: readonly CandidatePv[] | null; readonly store: StoreNeeds | undefined },
  notes: Notes,
): number {
  if (of === 'ORIGIN') {
    const origin = store?.origin ?? null;
    if (origin === null) throw new CommandError('Please express size as %FREE, %PVS or %VG.');
    // What the store needs besides the data is not the user's affair.
    return origin.mostExtents - origin.extents + Math.ceil((percent * origin.extents) / 100);
  }
  const map = allocationMapOf(vg);
  const part = (extents: number): number => Math.floor((percent * extents) / 100);
  if (of === 'FREE') return part(map.free);
  if (of === 'PVS' && candidates !== null) return part(freeExtentsOf(candidates, map.pvs));
  const extents = part(map.total);
  if (of === 'PVS' || extents <= map.free) return extents;
  const left = notes.size(vg.extentSizeSectors * map.free);
  notes.print(`Reducing ${percent}%VG to remaining free space ${left} in VG.`);
  return map.free;
}

/** A part of what is there must not be rounded up to more than there is. */
function downToStripes(
  { vg }: VolumeGroup,
  request: Pick<LvCreateRequest, 'stripes' | 'stripeSizeSectors'>,
  extents: number,
  notes: Notes,
): number {
  const row = request.stripes * Math.max(Math.floor(request.stripeSizeSectors / vg.extentSizeSectors), 1);
  const over = extents % row;
  if (over === 0 || freeExtents(vg) >= extents - over + row) return extents;
  notes.print(`Rounding size (${extents} extents) down to stripe boundary size (${extents - over} extents)`);
  if (extents > over) return extents - over;
  throw new CommandError('Adjusted size of logical volume is 0 extents. Needs to be larger.');
}

function roundedToStripes({ vg }: VolumeGroup, extents: number, stripes: number, notes: Notes): number {
  const over = extents % stripes;
  if (over === 0) return extents;
  const rounded = extents + stripes - over;
  const show = (count: number): string => `${notes.size(count * vg.extentSizeSectors)} (${count} extents)`;
  notes.print(`Rounding size ${show(extents)} up to stripe boundary size ${show(rounded)}.`);
  return rounded;
}

interface Placement {
  readonly name: string;
  readonly extents: number;
  readonly stripeSizeSectors: number;
  /** Null: any PV. */
  readonly candidates: readonly CandidatePv[] | null;
}

function segmentsFor(group: VolumeGroup, request: LvCreateRequest, placement: Placement): readonly Segment[] {
  const empty = { segments: [], status: [] };
  const { name, extents, stripeSizeSectors, candidates } = placement;
  if (request.type !== 'striped') return withVirtual(empty, request.type, extents);
  const { rows } = allocate({
    vg: group.vg,
    candidates: candidates ?? allCandidates(group),
    policy: policyOf(group.vg, request.policy),
    extents,
    areaCount: request.stripes,
    areaMultiple: request.stripes,
    extending: null,
    approximate: request.size.kind === 'percent',
    lvName: name,
    settings: request.settings,
  });
  return withStripes(empty, rows, stripeSizeSectors);
}

function newLv(request: LvCreateRequest, name: string, segments: readonly Segment[]): LogicalVolumeText {
  const { readAhead, device, policy } = request;
  const flags = [
    ...(request.skipActivation ? ['ACTIVATION_SKIP'] : []),
    ...(request.noAutoActivate ? ['NOAUTOACTIVATE'] : []),
  ];
  return {
    name,
    id: newUuid(),
    status: ['READ', ...(request.writable ? ['WRITE'] : []), ...(device === null ? [] : ['FIXED_MINOR']), 'VISIBLE'],
    flags,
    tags: [...new Set(request.tags)],
    creationTime: request.now,
    creationHost: request.hostName,
    ...(policy === 'inherit' ? {} : { allocationPolicy: policy }),
    ...(readAhead === null ? {} : { readAhead }),
    ...device,
    segments,
    extra: [],
  };
}

function wipes(group: VolumeGroup, request: LvCreateRequest, lv: LogicalVolumeText, notes: Notes): readonly Effect[] {
  if (request.type !== 'striped') return [];
  const { zero, wipeSignatures, writable, store } = request;
  if (store !== undefined) {
    const zeroBytes = store.chunkSectors * SECTOR_BYTES;
    return [{ kind: 'wipe-lv', lvName: lv.name, zeroBytes, signatures: false, beforeCommit: true }];
  }
  if (isListed(request.readOnlyVolumes ?? [], group.vg, lv, request.hostTags)) {
    notes.warnAfter(`WARNING: Read-only activated logical volume ${displayName(group.vg, lv)} not zeroed.`);
    return [];
  }
  if (!writable || (!zero && !wipeSignatures)) {
    notes.warnAfter(`WARNING: Logical volume ${displayName(group.vg, lv)} not zeroed.`);
    return [];
  }
  if (!passesVolumeList(request.volumeList, group.vg, lv, request.hostTags)) {
    throw new CommandError([
      `Volume ${displayName(group.vg, lv)} is not active locally (volume_list activation filter?).`,
      'Aborting. Failed to wipe start of new LV.',
    ]);
  }
  return [{ kind: 'wipe-lv', lvName: lv.name, zeroBytes: zero ? ZEROED_HEAD_BYTES : 0, signatures: wipeSignatures }];
}
