/**
 * Whether a volume group makes sense: what LVM2 checks when it imports a metadata text, and what must hold before anything
 * may be activated from one (lvm2: lib/format_text/import_vsn1.c, lib/metadata/merge.c).
 *
 * After `validateVolumeGroup` returned:
 *  - PV labels, LV names and ids are unique; names are names that LVM2 accepts.
 *  - The segments of each LV tile [0, size) without gap or overlap; types that need a single segment have one.
 *  - Every name that a segment refers to exists, areas lie inside their PV or LV, no physical extent belongs to two segments,
 *    and no LV is built on itself, directly or round a corner.
 *  - Every size and offset, in bytes, is a safe integer.
 *
 * All checks are linear or n log n, and none recurses.
 */
import { FormatError, type FormatErrorCode, type Where } from './errors.ts';
import { MAX_U32 } from './fields.ts';
import type { LogicalVolumeText, PhysicalVolumeText, Segment, SegmentArea, VolumeGroupText } from './metadata.ts';

const SECTOR_BYTES = 512;
const NAME = /^(?!-)(?!\.{1,2}$)[A-Za-z0-9+_.-]{1,127}$/;
const ONE_SEGMENT_TYPES: ReadonlySet<Segment['type']> = new Set<Segment['type']>([
  'raid',
  'raid0',
  'snapshot',
  'thin-pool',
  'thin',
  'cache-pool',
  'cache',
  'vdo',
  'vdo-pool',
  'integrity',
]);

type Fail = (
  code: FormatErrorCode,
  what: string,
  detail: { readonly problem?: string; readonly expected?: string | number; readonly actual?: string | number },
) => FormatError;

interface Context {
  readonly vg: VolumeGroupText;
  readonly pvs: ReadonlyMap<string, PhysicalVolumeText>;
  readonly lvs: ReadonlyMap<string, LogicalVolumeText>;
  /** Extents of each LV. */
  readonly sizes: ReadonlyMap<string, number>;
  readonly fail: Fail;
}

/** Whether LVM2 accepts `name` for a VG or an LV. */
export function isValidName(name: string): boolean {
  return NAME.test(name);
}

/** Throws a FormatError for the first thing that is wrong with `vg`. */
export function validateVolumeGroup(vg: VolumeGroupText, where: Where): void {
  const fail: Fail = (code, what, detail) => new FormatError({ code, ...where, what, ...detail });
  if (!isValidName(vg.name)) throw fail('BAD_FIELD', 'name of the volume group', { actual: JSON.stringify(vg.name) });
  const pvs = byUniqueKey(vg.physicalVolumes, (pv) => pv.label, `${vg.name}: physical volume`, fail);
  const lvs = byUniqueKey(vg.logicalVolumes, (lv) => lv.name, `${vg.name}: logical volume`, fail);
  byUniqueKey(vg.physicalVolumes, (pv) => pv.id, `${vg.name}: physical volume id`, fail);
  byUniqueKey(vg.logicalVolumes, (lv) => lv.id, `${vg.name}: logical volume id`, fail);
  const sizes = new Map(vg.logicalVolumes.map((lv) => [lv.name, checkTiling(vg, lv, fail)]));
  const context = { vg, pvs, lvs, sizes, fail };
  for (const pv of vg.physicalVolumes) checkPhysicalVolume(context, pv);
  for (const lv of vg.logicalVolumes) checkLogicalVolume(context, lv);
  checkSpare(context);
  checkHistorical(context);
  checkOverlaps(context);
  checkCycles(context);
}

function byUniqueKey<Item>(
  items: readonly Item[],
  keyOf: (item: Item) => string,
  what: string,
  fail: Fail,
): ReadonlyMap<string, Item> {
  const map = new Map<string, Item>();
  for (const item of items) {
    const key = keyOf(item);
    if (map.has(key)) throw fail('INCONSISTENT', `${what} ${key}`, { problem: 'there are two of it' });
    map.set(key, item);
  }
  return map;
}

/** Checks that the segments tile the LV; returns its size in extents. */
function checkTiling(vg: VolumeGroupText, lv: LogicalVolumeText, fail: Fail): number {
  let next = 0;
  for (const segment of lv.segments) {
    if (segment.startExtent !== next) {
      const what = `${vg.name}/${lv.name}: start_extent of a segment`;
      throw fail('INCONSISTENT', what, { expected: next, actual: segment.startExtent });
    }
    next += segment.extentCount;
  }
  const what = `${vg.name}/${lv.name}`;
  if (next > MAX_U32) throw fail('OUT_OF_RANGE', what, { expected: `at most ${MAX_U32} extents`, actual: next });
  if (!Number.isSafeInteger(next * vg.extentSizeSectors * SECTOR_BYTES)) {
    throw fail('TOO_LARGE', what, { expected: 'less than 2^53 bytes', actual: `${next} extents` });
  }
  // A finished pvmove may leave its LV without segments.
  if (next === 0 && !/^pvmove[0-9]/.test(lv.name)) throw fail('INCONSISTENT', what, { problem: 'has no segments' });
  return next;
}

function checkPhysicalVolume({ vg, fail }: Context, pv: PhysicalVolumeText): void {
  const end = pv.peStartSectors + pv.peCount * vg.extentSizeSectors;
  if (Number.isSafeInteger(end * SECTOR_BYTES)) return;
  throw fail('TOO_LARGE', `${vg.name} ${pv.label}: end of the extents`, { expected: 'less than 2^53 bytes' });
}

function checkLogicalVolume(context: Context, lv: LogicalVolumeText): void {
  const { vg, fail } = context;
  const what = `${vg.name}/${lv.name}`;
  if (!isValidName(lv.name)) throw fail('BAD_FIELD', `${vg.name}: name of a logical volume`, { actual: lv.name });
  if (lv.status.includes('FIXED_MINOR') && lv.minor === undefined) throw fail('MISSING_FIELD', `${what}: minor`, {});
  lv.segments.forEach((segment, index) => {
    const place = `${what} segment${index + 1}`;
    if (lv.segments.length > 1 && ONE_SEGMENT_TYPES.has(segment.type)) {
      const problem = `type ${segment.type} must be the only segment`;
      throw fail('INCONSISTENT', place, { problem });
    }
    checkReferences(context, lv, segment, place);
    checkAreas(context, segment, place);
  });
}

function checkReferences({ lvs, fail }: Context, lv: LogicalVolumeText, segment: Segment, place: string): void {
  for (const name of [...dependencies(segment), ...mentions(segment)]) {
    if (!lvs.has(name)) throw fail('BAD_REFERENCE', place, { problem: `refers to ${name}, which is not in the VG` });
    if (name === lv.name) throw fail('INCONSISTENT', place, { problem: 'refers to its own LV' });
  }
  if (segment.type === 'snapshot' && segment.origin === segment.cowStore) {
    throw fail('INCONSISTENT', place, { problem: `${segment.origin} is both origin and snapshot store` });
  }
}

/** LVs that hold the segment's data, other than areas: what must be active before it. */
function dependencies(segment: Segment): readonly string[] {
  switch (segment.type) {
    case 'mirror':
      return segment.mirrorLog === undefined ? [] : [segment.mirrorLog];
    case 'raid0':
      return segment.images;
    case 'raid':
      return segment.images.flatMap(({ metadata, data }) => (metadata === undefined ? [data] : [metadata, data]));
    case 'snapshot':
      return [segment.origin, segment.cowStore];
    case 'thin-pool':
      return [segment.metadata, segment.pool];
    case 'thin':
      return segment.externalOrigin === undefined ? [segment.thinPool] : [segment.thinPool, segment.externalOrigin];
    case 'cache-pool':
      return [segment.metadata, segment.data];
    case 'cache':
      return [segment.cachePool, segment.origin];
    case 'writecache':
      return [segment.writecache, segment.origin];
    case 'vdo':
      return [segment.vdoPool];
    case 'vdo-pool':
      return [segment.data];
    case 'integrity':
      return segment.metaDev === undefined ? [segment.origin] : [segment.origin, segment.metaDev];
    case 'striped':
    case 'error':
    case 'zero':
    case 'unknown':
      return [];
  }
  return [];
}

/** LVs that the segment names without being built on them. */
function mentions(segment: Segment): readonly string[] {
  const names =
    segment.type === 'thin'
      ? [segment.origin, segment.merge]
      : segment.type === 'thin-pool'
        ? segment.messages.map((message) => message.create)
        : [];
  return names.filter((name) => name !== undefined);
}

function areasOf(segment: Segment): readonly SegmentArea[] {
  return segment.type === 'striped' || segment.type === 'mirror' ? segment.areas : [];
}

/** Extents that each area of the segment takes; null if they don't divide evenly. */
function areaLength(segment: Segment): number | null {
  const shares = dataShares(segment);
  return shares > 0 && segment.extentCount % shares === 0 ? segment.extentCount / shares : null;
}

/** Over how many areas or images the segment's data is spread; copies and parity don't count. */
function dataShares(segment: Segment): number {
  if (segment.type === 'striped') return segment.areas.length;
  if (segment.type === 'raid0') return segment.images.length;
  if (segment.type !== 'raid') return 1;
  if (segment.raidType === 'raid0_meta') return segment.images.length;
  if (/^raid[45]/.test(segment.raidType)) return segment.images.length - 1;
  return segment.raidType.startsWith('raid6') ? segment.images.length - 2 : 1;
}

function checkAreas({ pvs, lvs, sizes, fail }: Context, segment: Segment, place: string): void {
  const length = areaLength(segment);
  if (length === null) {
    const problem = `${segment.extentCount} extents don't divide into ${dataShares(segment)} shares`;
    throw fail('INCONSISTENT', place, { problem });
  }
  for (const area of areasOf(segment)) {
    // As for LVM2, a PV's label hides an LV of the same name.
    const limit = pvs.get(area.name)?.peCount ?? sizes.get(area.name);
    if (limit === undefined || (!pvs.has(area.name) && !lvs.has(area.name))) {
      throw fail('BAD_REFERENCE', place, {
        problem: `refers to ${area.name}, which is neither a PV nor an LV of the VG`,
      });
    }
    if (area.extent + length > limit) {
      const actual = `extents ${area.extent} to ${area.extent + length}`;
      throw fail('OUT_OF_RANGE', `${place}: area on ${area.name}`, { expected: `at most ${limit}`, actual });
    }
  }
}

/** One hidden pool metadata spare per VG, recognised by its name. */
function checkSpare({ vg, fail }: Context): void {
  const spares = vg.logicalVolumes.filter((lv) => lv.name.includes('_pmspare') && !lv.status.includes('VISIBLE'));
  const [first, second] = spares;
  if (first === undefined || second === undefined) return;
  const problem = `${first.name} and ${second.name} are both pool metadata spares`;
  throw fail('INCONSISTENT', vg.name, { problem });
}

function checkHistorical({ vg, lvs, fail }: Context): void {
  const historical = new Set(vg.historicalLogicalVolumes.map((lv) => lv.name ?? lv.label));
  for (const lv of vg.historicalLogicalVolumes) {
    const { origin } = lv;
    const originKnown =
      origin === undefined || (origin.startsWith('-') ? historical.has(origin.slice(1)) : lvs.has(origin));
    const lost = originKnown ? lv.descendants.find((name) => !lvs.has(name)) : origin;
    if (lost === undefined) continue;
    throw fail('BAD_REFERENCE', `${vg.name} historical ${lv.label}`, {
      problem: `refers to ${lost}, which is not known`,
    });
  }
}

interface Extents {
  readonly start: number;
  readonly end: number;
  readonly lvName: string;
}

/** No physical extent may belong to two segments. */
function checkOverlaps({ vg, pvs, fail }: Context): void {
  const used = new Map<string, Extents[]>();
  for (const lv of vg.logicalVolumes) {
    for (const segment of lv.segments) {
      const length = areaLength(segment) ?? 0;
      for (const area of areasOf(segment)) {
        if (!pvs.has(area.name)) continue;
        const list = used.get(area.name) ?? [];
        if (list.length === 0) used.set(area.name, list);
        list.push({ start: area.extent, end: area.extent + length, lvName: lv.name });
      }
    }
  }
  for (const [label, list] of used) {
    list.sort((a, b) => a.start - b.start);
    for (let at = 1; at < list.length; at++) {
      const before = list[at - 1];
      const after = list[at];
      if (before === undefined || after === undefined || before.end <= after.start) continue;
      const problem = `extent ${after.start} of ${label} belongs to both ${before.lvName} and ${after.lvName}`;
      throw fail('INCONSISTENT', vg.name, { problem });
    }
  }
}

/** Depth first over what each LV is built on, with a stack of our own. */
function checkCycles({ vg, pvs, lvs, fail }: Context): void {
  const done = new Set<string>();
  const onPath = new Set<string>();
  for (const root of vg.logicalVolumes) {
    const stack: { readonly name: string; readonly below: readonly string[]; next: number }[] = [];
    const enter = (name: string): void => {
      if (done.has(name)) return;
      if (onPath.has(name)) throw fail('INCONSISTENT', `${vg.name}/${name}`, { problem: 'is built on itself' });
      onPath.add(name);
      stack.push({ name, below: builtOn(lvs.get(name), pvs), next: 0 });
    };
    enter(root.name);
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const below = top.below[top.next++];
      if (below !== undefined) {
        enter(below);
        continue;
      }
      onPath.delete(top.name);
      done.add(top.name);
      stack.pop();
    }
  }
}

function builtOn(lv: LogicalVolumeText | undefined, pvs: Context['pvs']): readonly string[] {
  const names: string[] = [];
  for (const segment of lv?.segments ?? []) {
    for (const area of areasOf(segment)) if (!pvs.has(area.name)) names.push(area.name);
    // One by one: a hostile list may be longer than a call's arguments.
    for (const name of dependencies(segment)) names.push(name);
  }
  return names;
}
