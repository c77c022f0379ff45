/**
 * The pool metadata spare (`lvolN_pmspare`): an LV kept ready for the repair of pools, one per VG, as large as the largest pool
 * metadata LV (facts: LVM2 lib/metadata/pool_manip.c handle_pool_metadata_spare).
 *
 * Invariants
 *  - A VG without pools has no spare.
 *  - It is found by its name and by being hidden; nothing refers to it.
 */
import type { LogicalVolumeText, VolumeGroupText } from '../../ondisk/metadata.ts';
import { newUuid } from '../../ondisk/uuid.ts';
import { allocate } from '../allocate/allocate.ts';
import { DEFAULT_ALLOCATION } from '../allocate/request.ts';
import { sizeOf, withStripes } from '../allocate/segments.ts';
import { relationsOf } from '../relations.ts';
import { policyOf, replaceLv } from './lv-facts.ts';
import { generatedName } from './lv-names.ts';

/** No pool has more metadata than 16 GiB. */
const MAX_SPARE_SECTORS = 2 * 16 * 1024 * 1024;

export interface SpareContext {
  /** --poolmetadataspare */
  readonly wanted: boolean;
  /** What a new LV says of its creation. */
  readonly creationTime: number;
  readonly creationHost: string;
}

export interface SpareResult {
  readonly vg: VolumeGroupText;
  /** The spare that was made or that grew: its first bytes are to be zeroed; null: none. */
  readonly changed: string | null;
  readonly warnings: readonly string[];
}

/** The VG's spare; null if it has none. */
export function poolSpareOf(vg: VolumeGroupText): LogicalVolumeText | null {
  return vg.logicalVolumes.find((lv) => lv.name.endsWith('_pmspare') && !lv.status.includes('VISIBLE')) ?? null;
}

/** Makes, grows or drops the spare, so that it fits the pools. Throws CommandError if there is no room for it. */
export function withPoolSpare(vg: VolumeGroupText, context: SpareContext): SpareResult {
  const needed = neededExtents(vg);
  const spare = poolSpareOf(vg);
  if (!context.wanted) {
    const warning = 'WARNING: recovery of pools without pool metadata spare LV is not automated.';
    return { vg, changed: null, warnings: needed > 0 ? [warning] : [] };
  }
  if (needed === 0) return { vg: spare === null ? vg : withoutLv(vg, spare.name), changed: null, warnings: [] };
  const current = spare === null ? newSpare(vg, context) : spare;
  const missing = needed - sizeOf(current.segments);
  if (missing <= 0) return { vg, changed: null, warnings: [] };
  const { rows } = allocate({
    vg,
    candidates: vg.physicalVolumes
      .filter((pv) => pv.status.includes('ALLOCATABLE'))
      .map(({ label, tags }) => ({ label, tags, ranges: null })),
    policy: policyOf(vg, current.allocationPolicy),
    extents: missing,
    areaCount: 1,
    areaMultiple: 1,
    extending: spare,
    approximate: false,
    lvName: current.name,
    settings: DEFAULT_ALLOCATION,
  });
  const grown = { ...current, segments: withStripes(current, rows, 0) };
  const after =
    spare === null ? { ...vg, logicalVolumes: [...vg.logicalVolumes, grown] } : replaceLv(vg, spare.name, grown);
  return { vg: after, changed: grown.name, warnings: [] };
}

/** Two VGs of which at most one has a spare: the smaller one goes. */
export function withOneSpare(
  from: VolumeGroupText,
  to: VolumeGroupText,
): { readonly from: VolumeGroupText; readonly to: VolumeGroupText } {
  const ofFrom = poolSpareOf(from);
  const ofTo = poolSpareOf(to);
  if (ofFrom === null || ofTo === null) return { from, to };
  if (sizeOf(ofFrom.segments) > sizeOf(ofTo.segments)) return { from, to: withoutLv(to, ofTo.name) };
  return { from: withoutLv(from, ofFrom.name), to };
}

/** Extents of the largest pool metadata LV. */
function neededExtents(vg: VolumeGroupText): number {
  let largest = 0;
  for (const facts of relationsOf(vg).lvs.values()) {
    if (facts.usedBy.some((use) => use.kind === 'pool-metadata')) largest = Math.max(largest, facts.sizeExtents);
  }
  return Math.min(largest, Math.ceil(MAX_SPARE_SECTORS / vg.extentSizeSectors));
}

function newSpare(vg: VolumeGroupText, { creationTime, creationHost }: SpareContext): LogicalVolumeText {
  return {
    name: `${generatedName(vg, 'lvol')}_pmspare`,
    id: newUuid(),
    status: ['READ', 'WRITE'],
    flags: [],
    tags: [],
    creationTime,
    creationHost,
    segments: [],
    extra: [],
  };
}

function withoutLv(vg: VolumeGroupText, name: string): VolumeGroupText {
  return { ...vg, logicalVolumes: vg.logicalVolumes.filter((lv) => lv.name !== name) };
}
