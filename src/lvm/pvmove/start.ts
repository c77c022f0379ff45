/**
 * Beginning a pvmove: a temporary LV gets a mirror segment for every run of extents that moves, and the LVs are put on top of it
 * (facts: LVM2 tools/pvmove.c; the text is the same as LVM2's).
 *
 * Invariants
 *  - No extent is moved or written yet: after this commit all data is where it was.
 *  - The areas of the LVs that move and the segments of the temporary LV have the same boundaries, as LVM2 demands when it ends.
 *  - Extents side by side (stripes, copies) stay on different PVs, unless `anywhere` is asked for.
 */
import type { LogicalVolumeText, MirrorSegment, Segment, VolumeGroupText } from '../../ondisk/metadata.ts';
import { newUuid } from '../../ondisk/uuid.ts';
import { allocate } from '../allocate/allocate.ts';
import type {
  AllocatedRow,
  AllocationSettings,
  AvoidedPvs,
  CandidatePv,
  ConcretePolicy,
  ExtentRange,
} from '../allocate/request.ts';
import { CommandError } from '../edit/errors.ts';
import { displayName, withStatus } from '../edit/lv-facts.ts';
import { generatedName } from '../edit/lv-names.ts';
import { emptyPlan, type Plan } from '../edit/plan.ts';
import type { VolumeGroup } from '../model.ts';
import { cutAt } from './cut.ts';
import { checkMovable, isPartOf, untouchable } from './volumes.ts';

export interface MoveRequest {
  readonly group: VolumeGroup;
  readonly source: { readonly label: string; readonly ranges: readonly ExtentRange[] };
  /** Only this LV and its parts; null: all. */
  readonly lvName: string | null;
  /** Where to. */
  readonly candidates: readonly CandidatePv[];
  readonly policy: ConcretePolicy;
  readonly settings: AllocationSettings;
  /** --atomic: all is moved in the end, or nothing. */
  readonly atomic: boolean;
  /** 512-byte sectors (activation/raid_region_size). */
  readonly regionSectors: number;
  readonly creationTime: number;
  readonly creationHost: string;
  /** Remarks, for stdout. */
  readonly say: (line: string) => void;
}

/** A run of extents that moves. */
interface Piece {
  readonly length: number;
  /** First extent on the source. */
  readonly extent: number;
  /** PVs that the extents beside it are on. */
  readonly beside: readonly string[];
}

/** The first commit of a move. Throws CommandError with LVM2's reasons. */
export function startMove(request: MoveRequest): Plan {
  const { vg } = request.group;
  checkMovable(vg, request.source.label, request.lvName);
  const name = generatedName(vg, 'pvmove');
  const { pieces, volumes } = layerOver(request, name);
  const rows = placesFor(request, name, pieces);
  const segments = mirrorSegments(request, pieces, rows);
  const boundaries = segments.map((segment) => segment.startExtent);
  const logicalVolumes = vg.logicalVolumes.map((lv) => {
    const layered = volumes.get(lv.name);
    return layered === undefined ? lv : { ...layered, segments: cutAt(layered.segments, name, boundaries) };
  });
  const temporary = request.atomic ? atomicVolumes(request, name, segments) : [moveVolume(request, name, segments)];
  return emptyPlan(request.group, { ...vg, logicalVolumes: [...logicalVolumes, ...temporary] });
}

function moveVolume(
  { creationTime, creationHost }: MoveRequest,
  name: string,
  segments: readonly Segment[],
): LogicalVolumeText {
  return {
    name,
    id: newUuid(),
    status: ['READ', 'WRITE', 'PVMOVE', 'LOCKED'],
    flags: [],
    tags: [],
    creationTime,
    creationHost,
    allocationPolicy: 'contiguous',
    segments,
    extra: [],
  };
}

/** One mirror segment over an LV on the source and one on the destinations. */
function atomicVolumes(
  request: MoveRequest,
  name: string,
  segments: readonly MirrorSegment[],
): readonly LogicalVolumeText[] {
  const images = [`${name}_mimage_0`, `${name}_mimage_1`];
  const extentCount = segments.reduce((sum, segment) => sum + segment.extentCount, 0);
  const [first] = segments;
  if (first === undefined) throw new RangeError('a move has segments');
  const areas = images.map((image) => ({ name: image, extent: 0 }));
  const { creationTime, creationHost } = request;
  const plain = { status: ['READ', 'WRITE'], flags: [], tags: [], creationTime, creationHost, extra: [] };
  return [
    moveVolume(request, name, [{ ...first, extentCount, areas }]),
    ...images.map((image, index) => ({
      ...plain,
      name: image,
      id: newUuid(),
      segments: segments.map((segment) => linearImage(segment, index)),
    })),
  ];
}

function linearImage({ startExtent, extentCount, areas }: MirrorSegment, index: number): Segment {
  const kept = areas.slice(index, index + 1);
  return { type: 'striped', startExtent, extentCount, areas: kept, tags: [], typeFlags: [], extra: [] };
}

/** Puts the LVs that have extents in the source's ranges on top of the layer `name`; in the order of the LVs. */
function layerOver(
  request: MoveRequest,
  name: string,
): { readonly pieces: readonly Piece[]; readonly volumes: ReadonlyMap<string, LogicalVolumeText> } {
  const { group, source, lvName, say } = request;
  const pieces: Piece[] = [];
  const volumes = new Map<string, LogicalVolumeText>();
  let skipped = false;
  for (const lv of group.vg.logicalVolumes) {
    if (lvName !== null && !isPartOf(group.vg, lv.name, lvName)) continue;
    if (!isOn(lv, source.label)) continue;
    if (lv.status.includes('LOCKED')) {
      say(`Skipping locked LV ${displayName(group.vg, lv)}.`);
      skipped = true;
      continue;
    }
    const before = pieces.length;
    const segments = layeredSegments(lv, name, source, pieces);
    if (pieces.length > before) volumes.set(lv.name, withStatus({ ...lv, segments }, 'LOCKED', true));
  }
  if (pieces.length > 0) return { pieces, volumes };
  const all = 'All data on source PV skipped. It contains locked, hidden or non-top level LVs only.';
  throw new CommandError([...(skipped ? [all] : []), `No data to move for ${group.vg.name}.`]);
}

function isOn(lv: LogicalVolumeText, label: string): boolean {
  return lv.segments.some((segment) => segment.type === 'striped' && segment.areas.some((area) => area.name === label));
}

/** The LV's segments with areas in the source's ranges replaced by the layer; each adds to `pieces`. */
function layeredSegments(
  lv: LogicalVolumeText,
  name: string,
  { label, ranges }: MoveRequest['source'],
  pieces: Piece[],
): readonly Segment[] {
  const boundaries = ranges.flatMap(({ start, count }) => [start, start + count]).toSorted((a, b) => a - b);
  let next = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const layered: Segment[] = [];
  for (const segment of cutAt(lv.segments, label, boundaries)) {
    if (segment.type !== 'striped') {
      layered.push(segment);
      continue;
    }
    const length = segment.extentCount / segment.areas.length;
    const beside = segment.areas.map((area) => area.name);
    const areas = segment.areas.map((area) => {
      const moves = ranges.some(({ start, count }) => area.extent >= start && area.extent < start + count);
      if (area.name !== label || !moves) return area;
      pieces.push({ length, extent: area.extent, beside });
      next += length;
      return { name, extent: next - length };
    });
    layered.push({ ...segment, areas });
  }
  return layered;
}

function placesFor(request: MoveRequest, name: string, pieces: readonly Piece[]): readonly AllocatedRow[] {
  const { group, source, lvName, policy, settings } = request;
  const { vg } = group;
  const kept = policy === 'anywhere' ? new Set<string>() : untouchable(vg, source.label, lvName);
  const candidates = request.candidates.filter((pv) => !kept.has(pv.label));
  const avoid: AvoidedPvs[] = [];
  let extents = 0;
  for (const { length, beside } of pieces) {
    avoid.push({ startExtent: extents, extentCount: length, pvs: beside });
    extents += length;
  }
  try {
    return allocate({
      vg,
      candidates,
      policy,
      extents,
      areaCount: 1,
      areaMultiple: 1,
      extending: null,
      approximate: false,
      avoid,
      lvName: name,
      settings,
    }).rows;
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    const more = [
      `Unable to allocate mirror extents for ${vg.name}/${name}.`,
      'Failed to convert pvmove LV to mirrored.',
    ];
    throw new CommandError([...error.lines, ...more], error.exitCode, { cause: error });
  }
}

/** A mirror segment wherever both the source and the destination go on without a gap. */
function mirrorSegments(
  { group, source, regionSectors }: MoveRequest,
  pieces: readonly Piece[],
  rows: readonly AllocatedRow[],
): readonly MirrorSegment[] {
  const segments: MirrorSegment[] = [];
  const total = rows.reduce((sum, row) => sum + row.length, 0);
  const regionSizeSectors = regionSizeFor(group.vg, total, regionSectors);
  let startExtent = 0;
  const destinations = rows.map((row) => ({ ...row, used: 0 }));
  let at = 0;
  for (const piece of pieces) {
    for (let done = 0; done < piece.length;) {
      const row = destinations[at];
      const area = row?.areas[0];
      if (row === undefined || area === undefined) throw new RangeError('fewer extents were allocated than asked for');
      const extentCount = Math.min(piece.length - done, row.length - row.used);
      const areas = [
        { name: source.label, extent: piece.extent + done },
        { name: area.name, extent: area.extent + row.used },
      ];
      const mirror = { type: 'mirror', extentsMoved: 0, regionSizeSectors, areas } as const;
      segments.push({ ...mirror, startExtent, extentCount, tags: [], typeFlags: [], extra: [] });
      startExtent += extentCount;
      done += extentCount;
      row.used += extentCount;
      if (row.used === row.length) at++;
    }
  }
  return segments;
}

/** A region is never larger than all that moves. */
function regionSizeFor({ extentSizeSectors }: VolumeGroupText, extents: number, wanted: number): number {
  const most = extents * extentSizeSectors;
  return wanted <= most ? wanted : 2 ** Math.floor(Math.log2(most));
}
