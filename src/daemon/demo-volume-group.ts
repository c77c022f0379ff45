/**
 * The demo's volume group, written into sparse image files with ondisk's encoders and printer, as pvcreate, vgcreate and
 * lvcreate would leave it: one label, one metadata area of 1020 KiB and the data from 1 MiB on each physical volume.
 *
 *     demo-pv0  │notes│data ················│big ················│stripes │
 *     demo-pv1  │big (goes on) ······│                           │stripes │
 *     demo-pv2  │                                                │stripes │
 *
 * Invariants
 *  - The folder appears whole by one rename, so an interrupted run leaves nothing that looks like a demo.
 *  - A folder that exists is never written to: what its volumes hold is the user's.
 *  - LVM2 accepts the images without a warning.
 */
import { mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { hostname, machine, release, type, version } from 'node:os';
import { join } from 'node:path';
import { encodeLabel, PV_EXT_USED, PV_HEADER_EXTENSION_VERSION } from '../ondisk/label.ts';
import { EMPTY_LOCN, encodeMdaHeader, MDA_HEADER_BYTES, type MdaHeader, textLocn } from '../ondisk/mda.ts';
import type { LogicalVolumeText, MetadataText, PhysicalVolumeText, StripedSegment } from '../ondisk/metadata.ts';
import { newUuid } from '../ondisk/uuid.ts';
import { metadataTextBytes } from '../ondisk/vg-text.ts';
import { DaemonError, reasonOf } from './errors.ts';

const SECTOR_BYTES = 512;
const MIB = 2 ** 20;
const PV_BYTES = 256 * MIB;
const PV_COUNT = 3;
const EXTENT_BYTES = 4 * MIB;
/** Where the first extent starts, and where the metadata area ends. */
const DATA_OFFSET = 1 * MIB;
const MDA_OFFSET = 4096;
const MDA_BYTES = DATA_OFFSET - MDA_OFFSET;
const EXTENTS_PER_PV = Math.floor((PV_BYTES - DATA_OFFSET) / EXTENT_BYTES);
/** The last 16 extents of each PV are the striped volume's. */
const STRIPE_EXTENTS = 16;
const STRIPE_START = EXTENTS_PER_PV - STRIPE_EXTENTS;
const NOTES_EXTENTS = 1;
const DATA_EXTENTS = 16;
const BIG_START = NOTES_EXTENTS + DATA_EXTENTS;
const BIG_ON_SECOND = 20;

export const DEMO_VG = 'demo';

/** What the read-only volume holds, so that there is something to read at once. */
export const DEMO_NOTES: string = `This is the logical volume ${DEMO_VG}/notes, read-only, on the first physical volume.

It is a real LVM2 volume: attach the image files to loop devices and Linux shows the same volume group.
  ${DEMO_VG}/data     linear, empty
  ${DEMO_VG}/big      linear, spans two physical volumes
  ${DEMO_VG}/stripes  striped over three physical volumes
`;

/** The paths of the demo's images in `folder`, made if the folder does not exist. Throws a DaemonError DEMO_FAILED. */
export async function ensureDemo(
  folder: string,
): Promise<{ readonly created: boolean; readonly images: readonly string[] }> {
  try {
    const found = await imagesIn(folder);
    if (found.length > 0) return { created: false, images: found };
    const partial = `${folder}.partial`;
    await rm(partial, { recursive: true, force: true });
    await mkdir(partial, { recursive: true });
    await writeImages(partial, folder);
    await rename(partial, folder);
    return { created: true, images: await imagesIn(folder) };
  } catch (error) {
    throw new DaemonError({ code: 'DEMO_FAILED', path: folder, reason: reasonOf(error) }, { cause: error });
  }
}

async function imagesIn(folder: string): Promise<readonly string[]> {
  try {
    const names = await readdir(folder);
    return names
      .filter((name) => name.endsWith('.img'))
      .sort()
      .map((name) => join(folder, name));
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  }
}

/** Writes the images into `partial`, which is going to be called `folder`. */
async function writeImages(partial: string, folder: string): Promise<void> {
  const pvs = Array.from({ length: PV_COUNT }, (_, index) => physicalVolume(index, join(folder, imageName(index))));
  const time = Math.floor(Date.now() / 1000);
  const uname = [type(), hostname(), release(), version(), machine()].join(' ');
  const text = metadataTextBytes(demoText(pvs, time), { generator: 'Orion LVM', time, uname });
  for (const [index, pv] of pvs.entries()) {
    const file = await open(join(partial, imageName(index)), 'wx');
    try {
      await file.truncate(PV_BYTES);
      for (const { offset, bytes } of metadataWrites(pv, text)) await file.write(bytes, 0, bytes.length, offset);
      if (index === 0) await file.write(DEMO_NOTES, DATA_OFFSET);
      await file.sync();
    } finally {
      await file.close();
    }
  }
}

function imageName(index: number): string {
  return `demo-pv${index}.img`;
}

/** Everything that a PV holds besides data: label, metadata area header, text. */
function metadataWrites(pv: PhysicalVolumeText, text: Buffer): readonly { offset: number; bytes: Buffer }[] {
  const label = encodeLabel({
    sector: 1,
    uuid: pv.id,
    deviceSizeBytes: PV_BYTES,
    dataAreas: [{ offset: DATA_OFFSET, size: 0 }],
    metadataAreas: [{ offset: MDA_OFFSET, size: MDA_BYTES }],
    extensionVersion: PV_HEADER_EXTENSION_VERSION,
    extensionFlags: PV_EXT_USED,
    bootloaderAreas: [],
  });
  const header: MdaHeader = {
    start: MDA_OFFSET,
    size: MDA_BYTES,
    slots: [textLocn(MDA_HEADER_BYTES, text), EMPTY_LOCN],
  };
  return [
    { offset: SECTOR_BYTES, bytes: label },
    { offset: MDA_OFFSET, bytes: encodeMdaHeader(header) },
    { offset: MDA_OFFSET + MDA_HEADER_BYTES, bytes: text },
  ];
}

function demoText(pvs: readonly PhysicalVolumeText[], time: number): MetadataText {
  const host = hostname();
  return {
    header: {
      contents: 'Text Format Volume Group',
      version: 1,
      description: 'Orion LVM demo',
      creationHost: host,
      creationTime: time,
    },
    vg: {
      name: DEMO_VG,
      id: newUuid(),
      seqno: 1,
      format: 'lvm2',
      status: ['RESIZEABLE', 'READ', 'WRITE'],
      flags: [],
      tags: [],
      extentSizeSectors: EXTENT_BYTES / SECTOR_BYTES,
      maxLv: 0,
      maxPv: 0,
      metadataCopies: 0,
      physicalVolumes: pvs,
      logicalVolumes: demoVolumes(time, host),
      historicalLogicalVolumes: [],
      extra: [],
    },
    extra: [],
  };
}

function physicalVolume(index: number, device: string): PhysicalVolumeText {
  return {
    label: `pv${index}`,
    id: newUuid(),
    device,
    status: ['ALLOCATABLE'],
    flags: [],
    tags: [],
    devSizeSectors: PV_BYTES / SECTOR_BYTES,
    peStartSectors: DATA_OFFSET / SECTOR_BYTES,
    peCount: EXTENTS_PER_PV,
    extra: [],
  };
}

function demoVolumes(creationTime: number, creationHost: string): readonly LogicalVolumeText[] {
  const volume = (name: string, status: readonly string[], segments: StripedSegment[]): LogicalVolumeText => ({
    name,
    id: newUuid(),
    status,
    flags: [],
    tags: [],
    creationTime,
    creationHost,
    segments,
    extra: [],
  });
  const writable = ['READ', 'WRITE', 'VISIBLE'];
  const bigOnFirst = STRIPE_START - BIG_START;
  return [
    volume('notes', ['READ', 'VISIBLE'], [segment(0, NOTES_EXTENTS, [{ name: 'pv0', extent: 0 }])]),
    volume('data', writable, [segment(0, DATA_EXTENTS, [{ name: 'pv0', extent: NOTES_EXTENTS }])]),
    volume('big', writable, [
      segment(0, bigOnFirst, [{ name: 'pv0', extent: BIG_START }]),
      segment(bigOnFirst, BIG_ON_SECOND, [{ name: 'pv1', extent: 0 }]),
    ]),
    volume('stripes', writable, [
      segment(
        0,
        PV_COUNT * STRIPE_EXTENTS,
        Array.from({ length: PV_COUNT }, (_, index) => ({ name: `pv${index}`, extent: STRIPE_START })),
      ),
    ]),
  ];
}

function segment(startExtent: number, extentCount: number, areas: StripedSegment['areas']): StripedSegment {
  const base = { type: 'striped' as const, startExtent, extentCount, areas, tags: [], typeFlags: [], extra: [] };
  return areas.length === 1 ? base : { ...base, stripeSizeSectors: (64 * 1024) / SECTOR_BYTES };
}
