/**
 * Which other LVs a segment names, and as what: the one place that knows where the segment types keep names.
 *
 * Invariants
 *  - In area lists a PV's label shadows an LV's name (LVM2 looks the PV up first), so PV areas are never references here.
 *  - A segment of an unknown type names nothing that we can know of.
 *
 * Source: the field tables of LVM2's segment types (lib/{striped,mirror,raid,snapshot,thin,cache_segtype,writecache,vdo,
 * integrity}), as formats notes list them.
 */
import type { Segment, SegmentArea } from '../ondisk/metadata.ts';

/** As what an LV is named by a segment of another LV. */
export type ReferenceKind =
  /** An area of a striped (linear) segment: a layer, such as an LV on a pvmove. */
  | 'area'
  | 'mirror-image'
  | 'mirror-log'
  | 'raid-image'
  | 'raid-metadata'
  | 'snapshot-origin'
  | 'snapshot-cow'
  | 'pool-data'
  | 'pool-metadata'
  | 'thin-pool'
  | 'thin-origin'
  | 'external-origin'
  | 'cache-pool'
  | 'cache-origin'
  | 'writecache-cache'
  | 'writecache-origin'
  | 'vdo-pool'
  | 'integrity-origin'
  | 'integrity-metadata';

export interface SegmentReference {
  readonly name: string;
  readonly kind: ReferenceKind;
}

/** Kinds by which an LV becomes a part of another one: a part has one whole, and is never used by itself. */
const COMPONENT_KINDS: ReadonlySet<ReferenceKind> = new Set<ReferenceKind>([
  'mirror-image',
  'mirror-log',
  'raid-image',
  'raid-metadata',
  'snapshot-cow',
  'pool-data',
  'pool-metadata',
  'cache-pool',
  'cache-origin',
  'writecache-cache',
  'writecache-origin',
  'integrity-origin',
  'integrity-metadata',
]);

export function isComponentKind(kind: ReferenceKind): boolean {
  return COMPONENT_KINDS.has(kind);
}

/** The areas of a segment that are PVs or layers; types that name whole LVs have none. */
export function segmentAreas(segment: Segment): readonly SegmentArea[] {
  return segment.type === 'striped' || segment.type === 'mirror' ? segment.areas : [];
}

/** Extents that each area of a striped or mirror segment covers. */
export function areaExtents(segment: Segment): number {
  if (segment.type === 'striped') return segment.extentCount / Math.max(segment.areas.length, 1);
  return segment.extentCount;
}

/**
 * LVs that a segment names, in the text's order.
 * @param isPv tells whether a name is the label of a PV
 */
export function segmentReferences(segment: Segment, isPv: (name: string) => boolean): readonly SegmentReference[] {
  switch (segment.type) {
    case 'striped':
      return lvAreas(segment.areas, 'area', isPv);
    case 'mirror': {
      const images = lvAreas(segment.areas, 'mirror-image', isPv);
      return segment.mirrorLog === undefined ? images : [...images, { name: segment.mirrorLog, kind: 'mirror-log' }];
    }
    case 'raid0':
      return segment.images.map((name) => ({ name, kind: 'raid-image' }));
    case 'raid':
      return segment.images.flatMap((pair) => [
        ...optional(pair.metadata, 'raid-metadata'),
        { name: pair.data, kind: 'raid-image' as const },
      ]);
    case 'snapshot':
      return [
        { name: segment.origin, kind: 'snapshot-origin' },
        { name: segment.cowStore, kind: 'snapshot-cow' },
      ];
    case 'thin-pool':
      return pair(segment.pool, 'pool-data', segment.metadata, 'pool-metadata');
    case 'thin':
      return [
        { name: segment.thinPool, kind: 'thin-pool' },
        ...optional(segment.origin, 'thin-origin'),
        ...optional(segment.externalOrigin, 'external-origin'),
      ];
    case 'cache-pool':
      return pair(segment.data, 'pool-data', segment.metadata, 'pool-metadata');
    case 'cache':
      return pair(segment.cachePool, 'cache-pool', segment.origin, 'cache-origin');
    case 'writecache':
      return pair(segment.writecache, 'writecache-cache', segment.origin, 'writecache-origin');
    case 'vdo':
      return [{ name: segment.vdoPool, kind: 'vdo-pool' }];
    case 'vdo-pool':
      return [{ name: segment.data, kind: 'pool-data' }];
    case 'integrity':
      return [{ name: segment.origin, kind: 'integrity-origin' }, ...optional(segment.metaDev, 'integrity-metadata')];
    case 'error':
    case 'zero':
    case 'unknown':
  }
  return [];
}

function lvAreas(
  areas: readonly SegmentArea[],
  kind: ReferenceKind,
  isPv: (name: string) => boolean,
): readonly SegmentReference[] {
  return areas.filter((area) => !isPv(area.name)).map((area) => ({ name: area.name, kind }));
}

function optional(name: string | undefined, kind: ReferenceKind): readonly SegmentReference[] {
  return name === undefined ? [] : [{ name, kind }];
}

function pair(a: string, kindA: ReferenceKind, b: string, kindB: ReferenceKind): readonly SegmentReference[] {
  return [
    { name: a, kind: kindA },
    { name: b, kind: kindB },
  ];
}
