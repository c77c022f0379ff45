/**
 * Other names for LVs, wherever a volume group's text has their names.
 *
 * Invariant: this is the writing side of lvm/references.ts; what is found there as a reference is renamed here.
 */
import type {
  HistoricalLogicalVolumeText,
  LogicalVolumeText,
  Segment,
  SegmentArea,
  VolumeGroupText,
} from '../../ondisk/metadata.ts';

/** The VG with LVs renamed: old names to new ones. */
export function withRenamedLvs(vg: VolumeGroupText, names: ReadonlyMap<string, string>): VolumeGroupText {
  if (names.size === 0) return vg;
  const pvs = new Set(vg.physicalVolumes.map((pv) => pv.label));
  const to = (name: string): string => names.get(name) ?? name;
  const area = (at: SegmentArea): SegmentArea => (pvs.has(at.name) ? at : { ...at, name: to(at.name) });
  return {
    ...vg,
    logicalVolumes: vg.logicalVolumes.map((lv): LogicalVolumeText => {
      const segments = lv.segments.map((segment) => renamed(segment, to, area));
      return { ...lv, name: to(lv.name), segments };
    }),
    historicalLogicalVolumes: vg.historicalLogicalVolumes.map((lv): HistoricalLogicalVolumeText => ({
      ...lv,
      ...(lv.origin === undefined ? {} : { origin: to(lv.origin) }),
      descendants: lv.descendants.map(to),
    })),
  };
}

function renamed(segment: Segment, to: (name: string) => string, area: (at: SegmentArea) => SegmentArea): Segment {
  const maybe = <Key extends string>(key: Key, name: string | undefined): { readonly [K in Key]?: string } =>
    name === undefined ? {} : ({ [key]: to(name) } as { readonly [K in Key]: string });
  switch (segment.type) {
    case 'striped':
      return { ...segment, areas: segment.areas.map(area) };
    case 'mirror':
      return { ...segment, areas: segment.areas.map(area), ...maybe('mirrorLog', segment.mirrorLog) };
    case 'raid0':
      return { ...segment, images: segment.images.map(to) };
    case 'raid': {
      const images = segment.images.map(({ data, metadata }) => ({ data: to(data), ...maybe('metadata', metadata) }));
      return { ...segment, images };
    }
    case 'snapshot':
      return { ...segment, origin: to(segment.origin), cowStore: to(segment.cowStore) };
    case 'thin-pool': {
      const messages = segment.messages.map((message) => ({ ...message, ...maybe('create', message.create) }));
      return { ...segment, pool: to(segment.pool), metadata: to(segment.metadata), messages };
    }
    case 'thin':
      return {
        ...segment,
        thinPool: to(segment.thinPool),
        ...maybe('origin', segment.origin),
        ...maybe('externalOrigin', segment.externalOrigin),
        ...maybe('merge', segment.merge),
      };
    case 'cache-pool':
      return { ...segment, data: to(segment.data), metadata: to(segment.metadata) };
    case 'cache':
      return { ...segment, cachePool: to(segment.cachePool), origin: to(segment.origin) };
    case 'writecache':
      return { ...segment, writecache: to(segment.writecache), origin: to(segment.origin) };
    case 'vdo':
      return { ...segment, vdoPool: to(segment.vdoPool) };
    case 'vdo-pool':
      return { ...segment, data: to(segment.data) };
    case 'integrity':
      return { ...segment, origin: to(segment.origin), ...maybe('metaDev', segment.metaDev) };
    case 'error':
    case 'zero':
    case 'unknown':
  }
  return segment;
}
