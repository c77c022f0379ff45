/** Damage to physical volumes, one kind each: what the scan and the real LVM2 are both tried on. */
import { encodeLabel, findLabel } from '../../src/ondisk/label.ts';
import { RAW_LOCN_IGNORED } from '../../src/ondisk/mda.ts';
import type { RawLocn } from '../../src/ondisk/mda.ts';
import { lvmCrc } from '../../src/ondisk/crc.ts';
import { changed, imagesOf, linear, MDA_START, pvHead, pvUuid, TEXT_START, vgText } from './images.ts';
import type { Image } from './images.ts';

export interface DamageCase {
  readonly name: string;
  readonly images: (folder: string) => Image[];
  /** LVM2 says something that is not comparable: a dump of its own bug, or words about a place that we name otherwise. */
  readonly otherWords?: true;
}

const LVS = [
  { name: 'a', segments: [linear(0, 2, 'pv0', 0)] },
  { name: 'b', segments: [linear(0, 2, 'pv0', 2)] },
  { name: 'c', segments: [linear(0, 3, 'pv1', 0)] },
];
/** A VG of three PVs, the last of them empty. */
export const GOOD_TEXT: string = vgText(LVS, { pvs: 3 });
const OLD_TEXT = vgText(LVS.slice(0, 1), { pvs: 3 }).replace('seqno = 3', 'seqno = 2');

function good(folder: string): Image[] {
  return imagesOf(GOOD_TEXT, folder).map((image, index) => changed(image, { path: `${folder}/pv${index}` }));
}

/** Puts other bytes into the image with this index. */
function change(images: readonly Image[], index: number, edit: (head: Buffer) => void): Image[] {
  return images.map((image, at) => {
    if (at !== index) return image;
    const head = Buffer.concat([image.head, Buffer.alloc(Math.max(0, 64 * 1024 - image.head.length))]);
    edit(head);
    return { ...image, head };
  });
}

function flip(offset: number): (head: Buffer) => void {
  return (head) => {
    head.writeUInt8(head.readUInt8(offset) ^ 1, offset);
  };
}

/** Gives an image another text, sound and committed. */
function withText(images: readonly Image[], index: number, edit: (text: string) => string, text = GOOD_TEXT): Image[] {
  return images.map((image, at) => {
    if (at !== index) return image;
    const { sizeBytes } = image;
    return { ...image, head: pvHead({ uuid: pvUuid(index), sizeBytes, text: edit(text) }) };
  });
}

function allWithText(folder: string, edit: (text: string) => string): Image[] {
  return [0, 1, 2].reduce<Image[]>((images, index) => withText(images, index, edit), good(folder));
}

function withSlot(images: readonly Image[], index: number, slot: (locn: RawLocn) => RawLocn): Image[] {
  return images.map((image, at) =>
    at === index
      ? { ...image, head: pvHead({ uuid: pvUuid(index), sizeBytes: image.sizeBytes, text: GOOD_TEXT, slot }) }
      : image,
  );
}

/** Rewrites fields of the header of an area, with a right checksum. */
function withHeader(edit: (header: Buffer) => void): (head: Buffer) => void {
  return (head) => {
    const header = head.subarray(MDA_START, MDA_START + 512);
    edit(header);
    header.writeUInt32LE(lvmCrc(header.subarray(4)), 0);
  };
}

function withLabel(edit: {
  readonly extensionVersion?: number;
  readonly extensionFlags?: number;
}): (head: Buffer) => void {
  return (head) => {
    const label = findLabel(head, 'test');
    if (label !== null) encodeLabel({ ...label, ...edit }).copy(head, 512);
  };
}

const ignored = (locn: RawLocn): RawLocn => ({ ...locn, flags: RAW_LOCN_IGNORED });
const empty = (): RawLocn => ({ offset: 0, size: 0, checksum: 0, flags: 0 });
const unknownStatus = (text: string): string => text.replace('"READ", "WRITE", "VISIBLE"', '"READ", "FUNKY"');
const newer = (text: string): string => text.replace('seqno = 3', 'seqno = 9');
const otherContent = (text: string): string => text.replace('max_lv = 0', 'max_lv = 9');
const flagMissing =
  (index: number) =>
  (text: string): string =>
    text.replace(new RegExp(`(pv${index} \\{[^}]*?flags = )\\[\\]`), '$1["MISSING"]');

/** All areas of one VG, one damage each. */
export const DAMAGE: readonly DamageCase[] = [
  { name: 'none', images: good },
  { name: 'older copy on one', images: (f) => withText(good(f), 1, (text) => text, OLD_TEXT) },
  { name: 'older copy on the first', images: (f) => withText(good(f), 0, (text) => text, OLD_TEXT) },
  { name: 'newer copy on one', images: (f) => withText(good(f), 1, newer) },
  { name: 'newer copy on the last', images: (f) => withText(good(f), 2, newer) },
  { name: 'flipped text on one', images: (f) => change(good(f), 1, flip(TEXT_START + 100)) },
  { name: 'flipped text on the first', images: (f) => change(good(f), 0, flip(TEXT_START + 100)) },
  {
    name: 'flipped text on all',
    images: (f) => [0, 1, 2].reduce((images, at) => change(images, at, flip(TEXT_START + 100)), good(f)),
  },
  { name: 'flipped checksum of an area header', images: (f) => change(good(f), 1, flip(MDA_START)) },
  { name: 'flipped magic of an area header', images: (f) => change(good(f), 1, flip(MDA_START + 4)) },
  {
    name: 'flipped area headers on all',
    images: (f) => [0, 1, 2].reduce((images, at) => change(images, at, flip(MDA_START)), good(f)),
  },
  {
    name: 'area header of another version',
    images: (f) =>
      change(
        good(f),
        1,
        withHeader((header) => header.writeUInt32LE(2, 20)),
      ),
  },
  {
    name: 'area header of another place',
    images: (f) =>
      change(
        good(f),
        1,
        withHeader((header) => header.writeUInt32LE(8192, 24)),
      ),
    otherWords: true,
  },
  { name: 'empty area on one', images: (f) => withSlot(good(f), 1, empty) },
  { name: 'empty areas on all', images: (f) => [0, 1, 2].reduce((images, at) => withSlot(images, at, empty), good(f)) },
  { name: 'ignored area on one', images: (f) => withSlot(good(f), 1, ignored) },
  { name: 'ignored areas on two', images: (f) => withSlot(withSlot(good(f), 1, ignored), 0, ignored) },
  {
    name: 'ignored areas on all',
    images: (f) => [0, 1, 2].reduce((images, at) => withSlot(images, at, ignored), good(f)),
  },
  {
    name: 'text far outside the area',
    images: (f) => withSlot(good(f), 1, (locn) => ({ ...locn, offset: 2_000_000 })),
    otherWords: true,
  },
  {
    name: 'text longer than the area',
    images: (f) => withSlot(good(f), 1, (locn) => ({ ...locn, size: 2_000_000 })),
    otherWords: true,
  },
  { name: 'wrong checksum of the text', images: (f) => withSlot(good(f), 1, (locn) => ({ ...locn, checksum: 1 })) },
  {
    name: 'left-over precommitted text',
    images: (f) =>
      good(f).map((image, index) =>
        changed(image, {
          head: pvHead({
            uuid: pvUuid(index),
            sizeBytes: image.sizeBytes,
            text: GOOD_TEXT,
            precommit: { offset: 8192, size: 700, checksum: 12345, flags: 0 },
          }),
        }),
      ),
  },
  { name: 'other content with the same seqno on one', images: (f) => withText(good(f), 1, otherContent) },
  { name: 'other content with the same seqno on the first', images: (f) => withText(good(f), 0, otherContent) },
  { name: 'unknown status word on one', images: (f) => withText(good(f), 1, unknownStatus) },
  {
    name: 'unknown status word on the newest',
    images: (f) => withText(good(f), 1, (text) => newer(unknownStatus(text))),
  },
  { name: 'unknown status word on all', images: (f) => allWithText(f, unknownStatus) },
  {
    name: 'no seqno on all',
    images: (f) => allWithText(f, (text) => text.replace('seqno', 'seqnx')),
    otherWords: true,
  },
  {
    name: 'other text version on the first',
    images: (f) => withText(good(f), 0, (text) => text.replace('version = 1', 'version = 2')),
  },
  { name: 'syntax error on all', images: (f) => allWithText(f, (text) => text.replace('pv1 {', 'pv1 [{')) },
  { name: 'unknown area on all', images: (f) => allWithText(f, (text) => text.replace('"pv0", 2', '"pv9", 2')) },
  {
    name: 'overlapping areas',
    images: (f) => allWithText(f, (text) => text.replace('"pv0", 2', '"pv0", 1')),
    otherWords: true,
  },
  {
    name: 'an area past the end of its PV',
    images: (f) => allWithText(f, (text) => text.replace('"pv0", 2', '"pv0", 15')),
  },
  {
    name: 'too few segments',
    images: (f) => allWithText(f, (text) => text.replace('segment_count = 1', 'segment_count = 2')),
  },
  {
    name: 'a gap before the first segment',
    images: (f) => allWithText(f, (text) => text.replace('start_extent = 0', 'start_extent = 1')),
  },
  { name: 'an LV built on itself', images: (f) => allWithText(f, (text) => text.replace('"pv0", 2', '"b", 0')) },
  { name: 'unknown segment type', images: (f) => allWithText(f, (text) => text.replace('"striped"', '"future"')) },
  { name: 'flipped label checksum', images: (f) => change(good(f), 1, flip(528)), otherWords: true },
  { name: 'label without the used flag', images: (f) => change(good(f), 1, withLabel({ extensionFlags: 0 })) },
  { name: 'label without extension', images: (f) => change(good(f), 1, withLabel({ extensionVersion: 0 })) },
  { name: 'label with a later extension', images: (f) => change(good(f), 1, withLabel({ extensionVersion: 7 })) },
  { name: 'device gone', images: (f) => good(f).filter((_, index) => index !== 1) },
  { name: 'unused device gone', images: (f) => good(f).slice(0, 2) },
  { name: 'flagged MISSING and used', images: (f) => allWithText(f, flagMissing(0)) },
  { name: 'flagged MISSING and unused', images: (f) => allWithText(f, flagMissing(2)) },
  { name: 'flagged MISSING and gone', images: (f) => allWithText(f, flagMissing(1)).filter((_, index) => index !== 1) },
  {
    name: 'shrunken device',
    images: (f) => good(f).map((image, index) => changed(image, index === 0 ? { sizeBytes: 8 << 20 } : {})),
  },
  {
    name: 'removed PV that still has its old metadata',
    images: (f) => {
      const text = vgText(LVS, { pvs: 2 }).replace('seqno = 3', 'seqno = 4');
      return [0, 1].reduce<Image[]>((images, index) => withText(images, index, (t) => t, text), good(f));
    },
  },
  {
    name: 'a copy of a device',
    images: (f) => [
      ...good(f),
      ...good(f)
        .slice(1, 2)
        .map((image) => changed(image, { path: `${f}/copy` })),
    ],
    otherWords: true,
  },
  {
    name: 'a larger copy of a device',
    images: (f) => [
      ...good(f)
        .slice(1, 2)
        .map((image) => changed(image, { path: `${f}/copy`, sizeBytes: 80 << 20 })),
      ...good(f),
    ],
  },
  {
    name: 'an orphan',
    images: (f) => [
      ...good(f),
      { path: `${f}/pv3`, head: pvHead({ uuid: pvUuid(9), sizeBytes: 16 << 20, text: null }), sizeBytes: 16 << 20 },
    ],
  },
  {
    name: 'two VGs of one name',
    otherWords: true,
    images: (f) => {
      const other = vgText([], { pvs: 1 }).replaceAll(pvUuid(0), pvUuid(7)).replace('VgVgVg-VgVg', 'WgWgWg-WgWg');
      return [...good(f), ...imagesOf(other, f).map((image) => changed(image, { path: `${f}/pv7` }))];
    },
  },
  { name: 'not a PV at all', images: (f) => [{ path: `${f}/zero`, head: Buffer.alloc(512), sizeBytes: 16 << 20 }] },
];
