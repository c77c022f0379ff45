/** Scanning without a peer: every byte damaged in turn, hostile headers, claims, order, size. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { assemble } from '../../src/lvm/assemble.ts';
import type { Scan } from '../../src/lvm/model.ts';
import { encodeMdaHeader, EMPTY_LOCN } from '../../src/ondisk/mda.ts';
import type { MdaHeader } from '../../src/ondisk/mda.ts';
import { encodeLabel, findLabel } from '../../src/ondisk/label.ts';
import { GOOD_TEXT } from './damage.ts';
import {
  changed,
  imagesOf,
  linear,
  MDA_SIZE,
  MDA_START,
  pvHead,
  pvUuid,
  scanImages,
  TEXT_START,
  vgText,
} from './images.ts';
import type { Image } from './images.ts';

const GOOD = imagesOf(GOOD_TEXT);
const TEXT_END = TEXT_START + Buffer.byteLength(GOOD_TEXT) + 1;

/** The label, the header of the area and the text: the bytes that a PV's meaning depends on. */
function* meaningfulBytes(): Generator<number> {
  for (let offset = 512; offset < 1024; offset++) yield offset;
  for (let offset = MDA_START; offset < TEXT_END; offset++) yield offset;
}

function flipped(image: Image, offset: number, bits = 0x01): Image {
  const head = Buffer.from(image.head);
  head.writeUInt8(head.readUInt8(offset) ^ bits, offset);
  return changed(image, { head });
}

function withHead(image: Image, edit: (head: Buffer) => void): Image {
  const head = Buffer.concat([image.head, Buffer.alloc(8192)]);
  edit(head);
  return changed(image, { head });
}

function messages(scan: Scan): string {
  return scan.warnings.map((warning) => warning.message).join('\n');
}

describe('every byte in turn', () => {
  test('flipped on one of three PVs: the VG is the same, and the damage is told', async () => {
    const [first, ...others] = GOOD;
    assert.ok(first);
    for (const offset of meaningfulBytes()) {
      const scan = await scanImages([flipped(first, offset, 1 << (offset % 8)), ...others]);
      const [group] = scan.volumeGroups;
      assert.ok(group, `byte ${offset}: ${messages(scan)}`);
      assert.equal(group.rawText.toString(), GOOD_TEXT, `byte ${offset}`);
      assert.equal(scan.volumeGroups.length, 1);
      const told = scan.warnings.length > 0 || group.staleAreas.length > 0;
      assert.ok(told || isUntouched(scan), `byte ${offset} was flipped and nothing was said`);
    }
  });

  test('flipped on the only PV: the same VG or none, never another one', async () => {
    const text = vgText([{ name: 'a', segments: [linear(0, 2, 'pv0', 3)] }], { pvs: 1 });
    const [only] = imagesOf(text);
    assert.ok(only);
    for (const offset of meaningfulBytes()) {
      if (offset >= only.head.length) break;
      const scan = await scanImages([flipped(only, offset, 1 << (offset % 8))]);
      for (const group of scan.volumeGroups) assert.equal(group.rawText.toString(), text, `byte ${offset}`);
    }
  });

  test('cut off anywhere: no crash, and no VG but the whole one', async () => {
    const [first] = GOOD;
    assert.ok(first);
    for (let sizeBytes = 0; sizeBytes <= TEXT_END + 512; sizeBytes += 256) {
      const scan = await scanImages([changed(first, { sizeBytes: sizeBytes - (sizeBytes % 512) })]);
      for (const group of scan.volumeGroups) assert.equal(group.rawText.toString(), GOOD_TEXT);
    }
  });
});

/** Flipping an unused byte under no checksum (the label's sector before byte 20 has none) may change nothing. */
function isUntouched(scan: Scan): boolean {
  return scan.volumeGroups[0]?.partial === false && scan.orphans.length === 0;
}

describe('hostile headers', () => {
  const [first] = GOOD;
  assert.ok(first);

  const headers: Readonly<Record<string, Partial<MdaHeader>>> = {
    'an area of 2^52 bytes with a text of 2^51': {
      size: 2 ** 52,
      slots: [{ offset: 512, size: 2 ** 51, checksum: 1, flags: 0 }, EMPTY_LOCN],
    },
    'a text of one byte': { slots: [{ offset: 512, size: 1, checksum: 0, flags: 0 }, EMPTY_LOCN] },
    'a text of no bytes': { slots: [{ offset: 512, size: 0, checksum: 0, flags: 0 }, EMPTY_LOCN] },
    'a text inside the header': { slots: [{ offset: 100, size: 300, checksum: 0, flags: 0 }, EMPTY_LOCN] },
    'a text as long as its area': {
      slots: [{ offset: MDA_SIZE - 10, size: MDA_SIZE - 512, checksum: 0, flags: 0 }, EMPTY_LOCN],
    },
    'flags that nobody knows': { slots: [{ offset: 512, size: 100, checksum: 0, flags: 0xffff_fffe }, EMPTY_LOCN] },
  };
  for (const [name, header] of Object.entries(headers)) {
    test(name, async () => {
      const whole = { start: MDA_START, size: MDA_SIZE, slots: [EMPTY_LOCN, EMPTY_LOCN] as const, ...header };
      const hostile = withHead(first, (head) => encodeMdaHeader(whole).copy(head, MDA_START));
      const alone = await scanImages([hostile]);
      assert.deepEqual(alone.volumeGroups, []);
      assert.match(messages(alone), /\/img\/pv0/);
      const [group] = (await scanImages([hostile, ...GOOD.slice(1)])).volumeGroups;
      assert.ok(group && !group.partial, 'the others still tell of the VG');
      assert.equal(group.staleAreas[0]?.devicePath, '/img/pv0');
    });
  }

  test('a label whose areas lie outside the device, or are too many', async () => {
    const outside = [...Array(8).keys()].map((index) => ({ offset: 2 ** 40 + index * 512, size: 2 ** 50 }));
    const hostile = withHead(first, (head) => {
      const label = findLabel(head, 'test');
      assert.ok(label);
      encodeLabel({ ...label, metadataAreas: outside }).copy(head, 512);
    });
    const scan = await scanImages([hostile]);
    assert.equal(scan.orphans.length, 1);
    assert.equal(scan.orphans[0]?.found?.metadataAreas.length, 2, 'LVM2 knows two areas');
    assert.match(messages(scan), /does not lie inside the device/);
  });

  test('two areas that hold the same text are one VG', async () => {
    const hostile = withHead(first, (head) => {
      const label = findLabel(head, 'test');
      const [area] = label?.metadataAreas ?? [];
      assert.ok(label && area);
      encodeLabel({ ...label, metadataAreas: [area, area] }).copy(head, 512);
    });
    const scan = await scanImages([hostile, ...GOOD.slice(1)]);
    assert.equal(scan.volumeGroups.length, 1);
    assert.deepEqual(scan.warnings, []);
  });
});

describe('hostile texts are refused as a whole, and other VGs are unaffected', () => {
  const other = vgText([], { pvs: 1, name: 'other' })
    .replaceAll(pvUuid(0), pvUuid(8))
    .replace('VgVgVg-VgVg', 'XgXgXg-XgXg');
  const texts: Readonly<Record<string, string>> = {
    'a cycle of two': vgText([
      { name: 'a', segments: [linear(0, 2, 'b', 0)] },
      { name: 'b', segments: [linear(0, 2, 'a', 0)] },
    ]),
    'a cycle through a pool': vgText([
      { name: 'a', segments: [linear(0, 2, 'pool', 0)] },
      {
        name: 'pool',
        segments: [
          'start_extent = 0\nextent_count = 2\n\ntype = "thin-pool"\nmetadata = "a"\npool = "b"\ntransaction_id = 0\n' +
            'chunk_size = 128\ndiscards = "passdown"\nzero_new_blocks = 1',
        ],
      },
      { name: 'b', status: '["READ", "WRITE"]', segments: [linear(0, 2, 'pv0', 0)] },
    ]),
    'overlapping extents': vgText([
      { name: 'a', segments: [linear(0, 2, 'pv0', 0)] },
      { name: 'b', segments: [linear(0, 2, 'pv0', 1)] },
    ]),
    'an image of two LVs': vgText([
      ...['r1', 'r2'].map((name) => ({
        name,
        segments: [
          'start_extent = 0\nextent_count = 2\n\ntype = "mirror"\nmirror_count = 1\nregion_size = 4096\n\nmirrors = [\n"i", 0\n]',
        ],
      })),
      { name: 'i', status: '["READ", "WRITE"]', segments: [linear(0, 2, 'pv0', 0)] },
    ]),
    'extents beyond 2^53': vgText([]).replace('pe_start = 2048', 'pe_start = 9007199254740992'),
    'an extent size of zero': vgText([]).replace('extent_size = 2048', 'extent_size = 0'),
    'a name that is a path': vgText([{ name: '../a', segments: [linear(0, 2, 'pv0', 0)] }]),
  };
  for (const [name, text] of Object.entries(texts)) {
    test(name, async () => {
      const images = [0, 1].map((index) => ({
        path: `/img/pv${index}`,
        head: pvHead({ uuid: pvUuid(index), sizeBytes: 18 << 20, text }),
        sizeBytes: 18 << 20,
      }));
      const sound = imagesOf(other).map((image) => changed(image, { path: '/img/other' }));
      const scan = await scanImages([...images, ...sound]);
      assert.deepEqual(
        scan.volumeGroups.map((group) => group.vg.name),
        ['other'],
      );
      assert.deepEqual(
        scan.unreadable.map((group) => group.name),
        ['vg1'],
        messages(scan),
      );
      assert.deepEqual(scan.orphans, [], "the PVs of an unreadable VG are nobody else's");
      assert.match(messages(scan), /Reading VG vg1 on \/img\/pv0 failed/);
      const [otherGroup] = scan.volumeGroups;
      assert.ok(otherGroup && !otherGroup.partial);
    });
  }
});

describe('whose PV is it', () => {
  test('a PV that two VGs list belongs to the one that its own metadata speaks of', async () => {
    const ours = vgText([{ name: 'a', segments: [linear(0, 2, 'pv1', 3)] }]);
    const theirs = vgText([{ name: 'b', segments: [linear(0, 2, 'pv1', 3)] }], { name: 'vg2' }).replace(
      'VgVgVg-VgVg',
      'XgXgXg-XgXg',
    );
    const [pv0] = imagesOf(ours);
    const [, pv1] = imagesOf(theirs);
    assert.ok(pv0 && pv1);
    const scan = await scanImages([pv0, pv1]);
    assert.match(messages(scan), /is claimed by VG vg1 .* and vg2 .*; it is used for vg2/);
    const found = scan.volumeGroups.map((group) => group.pvs.map((pv) => pv.found?.device.path ?? null));
    assert.deepEqual(found, [
      ['/img/pv0', null],
      [null, '/img/pv1'],
    ]);
  });

  test('a PV without metadata areas is found through the others', async () => {
    const [pv0, pv1] = imagesOf(vgText([]));
    assert.ok(pv0 && pv1);
    const bare = changed(pv1, {
      head: pvHead({ uuid: pvUuid(1), sizeBytes: pv1.sizeBytes, text: null, metadataAreas: 0, extensionFlags: 1 }),
    });
    const together = await scanImages([bare, pv0]);
    assert.deepEqual(
      together.volumeGroups[0]?.pvs.map((pv) => pv.missing),
      [false, false],
    );
    assert.deepEqual(together.warnings, []);
    const alone = await scanImages([bare]);
    assert.match(messages(alone), /PV \/img\/pv1 is marked in use but no VG was found using it/);
    assert.ok(alone.warnings.every((warning) => warning.orphan === true));
  });

  test('of two copies, the one in use, then the one of the right size, then the one of the known name', async () => {
    const images = imagesOf(vgText([]));
    const [pv0] = images;
    assert.ok(pv0);
    const cases: readonly (readonly [Partial<Image>, string, string])[] = [
      [{ path: '/a' }, '/img/pv0', 'device name matches previous'],
      [{ path: '/a', sizeBytes: 90 << 20 }, '/img/pv0', 'device size is correct'],
      [{ path: '/a', sizeBytes: 90 << 20, held: true }, '/a', 'device is used by LV'],
    ];
    for (const [copy, chosen, because] of cases) {
      const scan = await scanImages([changed(pv0, copy), ...images]);
      assert.equal(scan.volumeGroups[0]?.pvs[0]?.found?.device.path, chosen);
      assert.match(messages(scan), new RegExp(`prefers device ${chosen} because ${because}\\.`));
    }
    const unknown = [changed(pv0, { path: '/b' }), changed(pv0, { path: '/a' }), ...images.slice(1)];
    assert.match(messages(await scanImages(unknown)), /prefers device \/b because device was seen first/);
  });

  test('a device that missed a rename holds an older copy of the same VG', async () => {
    // LVM2 2.03.16 reports internal errors here and takes whichever name it scans last; the seqno says which is newer.
    const renamed = GOOD_TEXT.replace('vg1 {', 'vgnew {').replace('seqno = 3', 'seqno = 4');
    const images = imagesOf(renamed);
    for (const missed of [0, 1, 2]) {
      const scan = await scanImages(images.map((image, index) => (index === missed ? (GOOD[index] ?? image) : image)));
      assert.deepEqual(
        scan.volumeGroups.map((group) => group.vg.name),
        ['vgnew'],
      );
      const stale = scan.volumeGroups[0]?.staleAreas.map((area) => area.devicePath);
      assert.deepEqual(stale, [`/img/pv${missed}`]);
      assert.match(messages(scan), /Inconsistent metadata found for VG vgnew/);
      assert.ok(scan.warnings.every((warning) => warning.vgName === 'vgnew'));
    }
  });

  test('one device under two names is no duplicate', async () => {
    const images = imagesOf(vgText([]));
    const again = images
      .slice(0, 1)
      .map((image) => changed(image, { path: '/link', identity: `file:test:${image.path}` }));
    const scan = await scanImages([...images, ...again]);
    assert.deepEqual(scan.duplicates, []);
    assert.equal(scan.devices.length, 2);
  });
});

describe('scanning', () => {
  test('a device that cannot be opened is told and the others are scanned', async () => {
    const scan = await scanImages(GOOD, ['/img/gone']);
    assert.equal(scan.volumeGroups.length, 1);
    assert.deepEqual(scan.warnings, [{ severity: 'error', message: '/img/gone: does not exist' }]);
  });

  test('a device of size 0 is named', async () => {
    const scan = await scanImages([...GOOD, { path: '/img/empty', head: Buffer.alloc(0), sizeBytes: 0 }]);
    assert.equal(scan.volumeGroups.length, 1);
    assert.equal(messages(scan), 'WARNING: device /img/empty is empty (size 0)');
  });

  test('nothing to scan', async () => {
    assert.deepEqual(assemble([]), await scanImages([]));
  });

  test('a left-over precommitted text is noted and not used', async () => {
    const [pv0, ...others] = GOOD;
    assert.ok(pv0);
    const precommit = { offset: 8192, size: 700, checksum: 12345, flags: 0 };
    const head = pvHead({ uuid: pvUuid(0), sizeBytes: pv0.sizeBytes, text: GOOD_TEXT, precommit });
    const scan = await scanImages([changed(pv0, { head }), ...others]);
    const [group] = scan.volumeGroups;
    assert.deepEqual(
      group?.pvs.map((pv) => pv.found?.metadataAreas[0]?.precommit),
      [true, false, false],
    );
    assert.deepEqual(group?.staleAreas, []);
  });

  test('hundreds of PVs and thousands of LVs are one parse', async () => {
    const lvs = Array.from({ length: 2000 }, (_, index) => ({
      name: `lv${index}`,
      segments: [linear(0, 1, `pv${index % 200}`, Math.floor(index / 200))],
    }));
    const text = vgText(lvs, { pvs: 200 });
    const scan = await scanImages(imagesOf(text));
    const [group] = scan.volumeGroups;
    assert.ok(group && !group.partial);
    assert.equal(group.vg.logicalVolumes.length, 2000);
    assert.deepEqual(scan.warnings, []);
  });
});
