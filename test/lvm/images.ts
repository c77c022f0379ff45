/**
 * Physical volumes for tests: built from a metadata text by our own encoders, as bytes in memory or as sparse files, and
 * scanned without touching the system.
 */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type { OpenedDevice } from '../../src/block/device.ts';
import { DeviceError } from '../../src/block/errors.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { writeBytes } from '../../src/block/sync-io.ts';
import type { Scan, VolumeGroup } from '../../src/lvm/model.ts';
import { scanDevices } from '../../src/lvm/scan.ts';
import { encodeLabel, PV_EXT_USED } from '../../src/ondisk/label.ts';
import { encodeMdaHeader, EMPTY_LOCN, textLocn } from '../../src/ondisk/mda.ts';
import type { RawLocn } from '../../src/ondisk/mda.ts';
import { parseMetadataText } from '../../src/ondisk/vg-text.ts';

export const MDA_START = 4096;
export const MDA_SIZE: number = 1024 * 1024 - MDA_START;
/** Where the text starts, in bytes of the device. */
export const TEXT_START: number = MDA_START + 512;

/** A device that exists only for a test: its first bytes, then nothing but zeroes. */
export interface Image {
  readonly path: string;
  readonly head: Buffer;
  readonly sizeBytes: number;
  readonly readOnly?: boolean;
  readonly identity?: string;
  readonly held?: boolean;
}

export interface PvOptions {
  readonly uuid: string;
  readonly sizeBytes: number;
  /** Null: an orphan. */
  readonly text: string | null;
  readonly metadataAreas?: 0 | 1;
  readonly labelSector?: number;
  readonly extensionVersion?: number;
  readonly extensionFlags?: number;
  /** Changes the committed slot, after the text's own place was put in. */
  readonly slot?: (locn: RawLocn) => RawLocn;
  readonly precommit?: RawLocn;
}

/** The first bytes of a PV as pvcreate with default options and a commit of `text` would leave it. */
export function pvHead(options: PvOptions): Buffer {
  const text = options.text === null ? null : Buffer.from(`${options.text}\0`, 'latin1');
  const head = Buffer.alloc(TEXT_START + (text?.length ?? 0));
  const label = encodeLabel({
    sector: options.labelSector ?? 1,
    uuid: options.uuid,
    deviceSizeBytes: options.sizeBytes,
    dataAreas: [{ offset: 1024 * 1024, size: 0 }],
    metadataAreas: options.metadataAreas === 0 ? [] : [{ offset: MDA_START, size: MDA_SIZE }],
    extensionVersion: options.extensionVersion ?? 2,
    extensionFlags: options.extensionFlags ?? (text === null ? 0 : PV_EXT_USED),
    bootloaderAreas: [],
  });
  label.copy(head, (options.labelSector ?? 1) * 512);
  if (options.metadataAreas === 0) return head;
  const locn = text === null ? EMPTY_LOCN : textLocn(512, text);
  const slots = [options.slot?.(locn) ?? locn, options.precommit ?? EMPTY_LOCN] as const;
  encodeMdaHeader({ start: MDA_START, size: MDA_SIZE, slots }).copy(head, MDA_START);
  text?.copy(head, TEXT_START);
  return head;
}

/** One image per PV of a metadata text, named /img/pv0 …, each with that text. */
export function imagesOf(text: string, folder = '/img'): Image[] {
  const { vg } = parseMetadataText(text, { device: 'test', offset: 0 });
  return vg.physicalVolumes.map((pv) => {
    const sizeBytes = (pv.devSizeSectors ?? pv.peStartSectors + pv.peCount * vg.extentSizeSectors) * 512;
    return { path: join(folder, pv.label), head: pvHead({ uuid: pv.id, sizeBytes, text }), sizeBytes };
  });
}

/** An image with other properties. */
export function changed(image: Image, changes: Partial<Image>): Image {
  return { ...image, ...changes };
}

/** Writes images as sparse files; returns their paths. */
export async function writeImages(images: readonly Image[]): Promise<string[]> {
  for (const image of images) {
    const file = await open(image.path, 'w');
    try {
      await file.truncate(image.sizeBytes);
      await file.write(image.head, 0, Math.min(image.head.length, image.sizeBytes), 0);
    } finally {
      await file.close();
    }
  }
  return images.map((image) => image.path);
}

/** An image as a device that the scan can open. */
class ImageDevice extends MemoryDevice implements OpenedDevice {
  readonly kind = 'file';
  readonly identity: string;

  constructor(image: Image) {
    super({ name: image.path, sizeBytes: image.sizeBytes });
    this.identity = image.identity ?? `file:test:${image.path}`;
  }
}

/** Scans images in memory; a path among `absent` can't be opened. */
export function scanImages(images: readonly Image[], absent: readonly string[] = []): Promise<Scan> {
  const byPath = new Map(images.map((image) => [image.path, image]));
  return scanDevices([...byPath.keys(), ...absent], {
    async open(path) {
      const image = byPath.get(path);
      if (image === undefined) throw new DeviceError('NOT_FOUND', path, 'does not exist');
      const device = new ImageDevice(image);
      await writeBytes(device, 0, image.head.subarray(0, image.sizeBytes));
      return device;
    },
    async describe(device) {
      const image = byPath.get(device.name);
      return Promise.resolve({
        path: device.name,
        sizeBytes: device.limits.sizeBytes,
        readOnly: image?.readOnly ?? false,
        identity: device.identity,
        kind: device.kind,
        ...(image?.held === undefined ? {} : { held: image.held }),
      });
    },
  });
}

/** The one VG that a text and all its PVs give. */
export async function groupOf(text: string): Promise<VolumeGroup> {
  const { volumeGroups, warnings } = await scanImages(imagesOf(text));
  const [group] = volumeGroups;
  if (group === undefined) throw new Error(warnings.map((warning) => warning.message).join('\n'));
  return group;
}

export interface LvSpec {
  readonly name: string;
  readonly status?: string;
  readonly flags?: string;
  readonly segments: readonly string[];
}

/** A VG text of PVs of 16 extents of 1 MiB and the given LVs; `vg` replaces or adds fields of the VG's section. */
export function vgText(
  lvs: readonly LvSpec[],
  options: {
    readonly pvs?: number;
    readonly vg?: string;
    readonly name?: string;
    readonly pvFlags?: readonly string[];
  } = {},
): string {
  const name = options.name ?? 'vg1';
  const pvs = Array.from({ length: options.pvs ?? 2 }, (_, index) => {
    const flags = options.pvFlags?.[index] ?? '[]';
    return (
      `pv${index} {\nid = "${pvUuid(index)}"\ndevice = "/img/pv${index}"\n\nstatus = ["ALLOCATABLE"]\nflags = ${flags}\n` +
      'dev_size = 36864\npe_start = 2048\npe_count = 16\n}\n'
    );
  });
  const sections = lvs.map((lv, index) => {
    const status = lv.status ?? '["READ", "WRITE", "VISIBLE"]';
    const segments = lv.segments.map((segment, at) => `segment${at + 1} {\n${segment}\n}\n`).join('');
    return (
      `${lv.name} {\nid = "${lvUuid(index)}"\nstatus = ${status}\nflags = ${lv.flags ?? '[]'}\n` +
      `segment_count = ${lv.segments.length}\n\n${segments}}\n`
    );
  });
  return (
    `${name} {\nid = "VgVgVg-VgVg-VgVg-VgVg-VgVg-VgVg-VgVgVg"\nseqno = 3\nformat = "lvm2"\n` +
    `${options.vg ?? 'status = ["RESIZEABLE", "READ", "WRITE"]\nflags = []'}\nextent_size = 2048\nmax_lv = 0\nmax_pv = 0\n` +
    `metadata_copies = 0\n\nphysical_volumes {\n\n${pvs.join('\n')}}\n\nlogical_volumes {\n\n${sections.join('\n')}}\n\n}\n` +
    '# Generated by LVM2\n\ncontents = "Text Format Volume Group"\nversion = 1\n\ndescription = "test"\n\n' +
    'creation_host = "test"\ncreation_time = 1795349543\n\n'
  );
}

export function pvUuid(index: number): string {
  return `PvPvPv-PvPv-PvPv-PvPv-PvPv-PvPv-${String(index).padStart(6, '0')}`;
}

export function lvUuid(index: number): string {
  return `LvLvLv-LvLv-LvLv-LvLv-LvLv-LvLv-${String(index).padStart(6, '0')}`;
}

/** Body of a linear segment. */
export function linear(start: number, count: number, area: string, extent: number): string {
  return `start_extent = ${start}\nextent_count = ${count}\n\ntype = "striped"\nstripe_count = 1\n\nstripes = [\n"${area}", ${extent}\n]`;
}
