/** Volume groups for tests of edits, as short as they can be written: PVs pv0, pv1 … on devices /dev/pv0 … of 1 MiB extents. */
import type {
  LogicalVolumeText,
  MetadataText,
  PhysicalVolumeText,
  Segment,
  VolumeGroupText,
} from '../../../src/ondisk/metadata.ts';
import type { VolumeGroup } from '../../../src/lvm/model.ts';

type NewPv = Omit<PhysicalVolumeText, 'label' | 'id'>;

function id(kind: string, number: number): string {
  const raw = `${kind}${String(number).padStart(31, '0')}`;
  return [6, 4, 4, 4, 4, 4, 6]
    .map((length, i, all) => {
      const start = all.slice(0, i).reduce((sum, part) => sum + part, 0);
      return raw.slice(start, start + length);
    })
    .join('-');
}

export function pv(peCount: number, tags: readonly string[] = [], status: readonly string[] = ['ALLOCATABLE']): NewPv {
  return { peCount, tags, status, flags: [], peStartSectors: 2048, devSizeSectors: 2048 * (peCount + 2), extra: [] };
}

export function linear(name: string, extent: number, extentCount: number): Segment {
  return {
    type: 'striped',
    startExtent: 0,
    extentCount,
    areas: [{ name, extent }],
    tags: [],
    typeFlags: [],
    extra: [],
  };
}

/** `extentCount` is that of the LV: all stripes together. */
export function striped(areas: readonly (readonly [string, number])[], extentCount: number): Segment {
  return {
    type: 'striped',
    startExtent: 0,
    extentCount,
    stripeSizeSectors: 128,
    areas: areas.map(([name, extent]) => ({ name, extent })),
    tags: [],
    typeFlags: [],
    extra: [],
  };
}

/** Segments one after the other, whatever their startExtent. */
export function lv(name: string, ...segments: readonly Segment[]): LogicalVolumeText {
  let startExtent = 0;
  const placed: Segment[] = [];
  for (const segment of segments) {
    placed.push({ ...segment, startExtent });
    startExtent += segment.extentCount;
  }
  return {
    name,
    id: '',
    status: ['READ', 'WRITE', 'VISIBLE'],
    flags: [],
    tags: [],
    segments: placed,
    extra: [],
  };
}

export function vg(
  pvs: readonly NewPv[],
  lvs: readonly LogicalVolumeText[] = [],
  more: Partial<VolumeGroupText> = {},
): VolumeGroupText {
  return {
    name: 'vg',
    id: id('g', 0),
    seqno: 1,
    format: 'lvm2',
    status: ['RESIZEABLE', 'READ', 'WRITE'],
    flags: [],
    tags: [],
    extentSizeSectors: 2048,
    maxLv: 0,
    maxPv: 0,
    physicalVolumes: pvs.map((entry, i) => Object.assign({}, entry, { label: `pv${i}`, id: id('p', i) })),
    logicalVolumes: lvs.map((entry, i) => Object.assign({}, entry, { id: id('l', i) })),
    historicalLogicalVolumes: [],
    extra: [],
    ...more,
  };
}

/** A VG as a scan would give it, every PV found. */
export function group(text: VolumeGroupText): VolumeGroup {
  const metadata: MetadataText = {
    header: { contents: 'Text Format Volume Group', version: 1, description: '' },
    vg: text,
    extra: [],
  };
  return {
    metadata,
    vg: text,
    pvs: text.physicalVolumes.map((entry) => {
      const path = `/dev/${entry.label}`;
      const sizeBytes = (entry.devSizeSectors ?? 0) * 512;
      const device = { path, sizeBytes, readOnly: false, identity: path, kind: 'block' as const };
      return {
        uuid: entry.id,
        found: {
          device,
          uuid: entry.id,
          labelSector: 1,
          headerSizeBytes: sizeBytes,
          dataAreas: [{ offset: 1024 * 1024, size: 0 }],
          metadataAreas: [],
          bootloaderAreas: [],
          extensionVersion: 2,
          inUse: true,
        },
        text: entry,
        missing: false,
      };
    }),
    partial: false,
    hasDuplicates: false,
    outdated: [],
    rawText: Buffer.alloc(0),
    staleAreas: [],
  };
}
