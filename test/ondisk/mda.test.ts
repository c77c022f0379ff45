/** Metadata areas: real ones (wrapped, ignored), the ring's arithmetic, and every way to damage a header. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { lvmCrc } from '../../src/ondisk/crc.ts';
import { FormatError } from '../../src/ondisk/errors.ts';
import { encodeLabel, findLabel } from '../../src/ondisk/label.ts';
import {
  committedText,
  decodeMdaHeader,
  EMPTY_LOCN,
  encodeMdaHeader,
  hasPrecommit,
  isIgnored,
  maxTextBytes,
  MDA_HEADER_BYTES,
  type MdaHeader,
  nextTextOffset,
  type RawLocn,
  readRanges,
  textLocn,
  textWrites,
  verifyText,
} from '../../src/ondisk/mda.ts';
import { newUuid } from '../../src/ondisk/uuid.ts';
import { parseMetadataText } from '../../src/ondisk/vg-text.ts';
import { mustRun } from '../helpers/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { CRC_TOOL, PV_FIXTURES, pvBytes } from './samples.ts';

const DEVICE = '/dev/test';
const START = 4096;
const SIZE = 1044480;

function header(size: number, committed: RawLocn = EMPTY_LOCN, precommitted: RawLocn = EMPTY_LOCN): MdaHeader {
  return { start: START, size, slots: [committed, precommitted] };
}

function locn(offset: number, size: number): RawLocn {
  return { ...EMPTY_LOCN, offset, size };
}

function readText(bytes: Buffer, mda: MdaHeader, place: RawLocn): Buffer {
  return Buffer.concat(readRanges(mda, place, DEVICE).map(({ offset, size }) => bytes.subarray(offset, offset + size)));
}

function rejects(code: string): (error: unknown) => boolean {
  return (error) => error instanceof FormatError && error.code === code && error.message.includes(DEVICE);
}

describe('real metadata areas', () => {
  for (const name of PV_FIXTURES) {
    test(name, () => {
      const bytes = pvBytes(name);
      for (const area of findLabel(bytes, DEVICE)?.metadataAreas ?? []) {
        if (area.offset >= bytes.length) continue; // the second area is at the device's end
        const sector = bytes.subarray(area.offset, area.offset + MDA_HEADER_BYTES);
        const mda = decodeMdaHeader(sector, { device: DEVICE, offset: area.offset });
        assert.equal(mda.size, area.size);
        assert.deepEqual(encodeMdaHeader(mda), Buffer.from(sector));
        assert.equal(hasPrecommit(mda), false);
        assert.equal(committedText(mda) === null, isIgnored(mda));
        // An ignored area may still have what LVM2 wrote when it was used.
        if (mda.slots[0].offset === 0) continue;
        const text = readText(bytes, mda, mda.slots[0]);
        verifyText(text, mda.slots[0], { device: DEVICE, offset: area.offset });
        assert.equal(text.at(-1), 0);
        parseMetadataText(text, { device: DEVICE, offset: area.offset });
      }
    });
  }

  test('areas of the VG that are ignored are recognised before their text is trusted', () => {
    const ignored = PV_FIXTURES.filter((name) => {
      const bytes = pvBytes(name);
      const [area] = findLabel(bytes, DEVICE)?.metadataAreas ?? [];
      if (area === undefined) return false;
      return isIgnored(decodeMdaHeader(bytes.subarray(area.offset), { device: DEVICE, offset: area.offset }));
    });
    assert.deepEqual(ignored, ['11-pv0-first2M.bin.gz', '11-pv2-first2M.bin.gz', '11-pv4-first2M.bin.gz']);
  });

  test('the second area, at the end of the device', () => {
    const tail = pvBytes('11-pv0-last2M.bin.gz');
    const offset = 267386880;
    const sector = tail.subarray(tail.length - 1048576);
    const mda = decodeMdaHeader(sector, { device: DEVICE, offset });
    assert.deepEqual([mda.start, mda.size], [offset, 1048576]);
  });

  test('the wrapped text is in two ranges', () => {
    const bytes = pvBytes('13-wrapped-pv-first1M.bin.gz');
    const mda = decodeMdaHeader(bytes.subarray(START), { device: DEVICE, offset: START });
    const place = committedText(mda);
    assert.deepEqual(place && { offset: place.offset, size: place.size }, { offset: 1043968, size: 724 });
    assert.deepEqual(readRanges(mda, mda.slots[0]), [
      { offset: START + 1043968, size: 512 },
      { offset: START + 512, size: 212 },
    ]);
    const { vg } = parseMetadataText(readText(bytes, mda, mda.slots[0]), { device: DEVICE, offset: START });
    assert.equal(vg.name, 'vgw');
    assert.equal(nextTextOffset(mda, place, 724), 1024);
  });

  test('what the encoders write satisfies the reference checker', async () => {
    await withTemporaryFolder(async (folder) => {
      const image = Buffer.alloc(1024 * 1024);
      const text = Buffer.from('vg {\n}\n\0');
      const mda = header(SIZE, textLocn(1043968, text));
      encodeLabel({
        sector: 1,
        uuid: newUuid(),
        deviceSizeBytes: image.length,
        dataAreas: [{ offset: image.length, size: 0 }],
        metadataAreas: [{ offset: START, size: SIZE }],
        extensionVersion: 2,
        extensionFlags: 1,
        bootloaderAreas: [],
      }).copy(image, 512);
      encodeMdaHeader(mda).copy(image, START);
      for (const { offset, bytes } of textWrites(mda, 1043968, text)) bytes.copy(image, offset);
      const path = join(folder, 'pv.img');
      await writeFile(path, image);
      const report = await mustRun('python3', [CRC_TOOL, path]);
      const label = /sector 1 crc (\w+) calc (\w+)/.exec(report);
      const area = /mda@ 4096 crc (\w+) calc (\w+)/.exec(report);
      assert.ok(label && area, report);
      assert.equal(label[1], label[2]);
      assert.equal(area[1], area[2]);
      assert.match(
        report,
        new RegExp(
          `slot 0 1043968 8 0x${lvmCrc(text).toString(16)} 0\\n *text crc calc 0x${lvmCrc(text).toString(16)}`,
        ),
      );
    });
  });
});

describe('the ring of texts', () => {
  test('the largest text of the default area is 521472 bytes', () => {
    assert.equal(maxTextBytes(SIZE), 521472);
    assert.equal(nextTextOffset(header(SIZE), null, 521472), 512);
    assert.throws(() => nextTextOffset(header(SIZE), null, 521473, DEVICE), rejects('OUT_OF_RANGE'));
    assert.equal(maxTextBytes(512), 0);
  });

  test('the next text follows the old one at a sector, or restarts near the end', () => {
    assert.equal(nextTextOffset(header(SIZE), EMPTY_LOCN, 100), 512);
    assert.equal(nextTextOffset(header(SIZE), locn(512, 512), 100), 1024);
    assert.equal(nextTextOffset(header(SIZE), locn(512, 513), 100), 1536);
    assert.equal(nextTextOffset(header(SIZE), locn(SIZE - 1024, 512), 100), SIZE - 512);
    assert.equal(nextTextOffset(header(SIZE), locn(SIZE - 1024, 513), 100), 512);
    assert.equal(nextTextOffset(header(SIZE), locn(SIZE - 512, 512), 100), 512);
    assert.equal(nextTextOffset(header(SIZE), locn(SIZE - 512, 513), 100), 1024);
  });

  test('a header that would make old and new text overlap is refused', () => {
    assert.throws(() => nextTextOffset(header(SIZE), locn(512, SIZE - 1024), 100000, DEVICE), rejects('OUT_OF_RANGE'));
  });

  test('texts of any size, written one after the other, come back whole and never touch the one before', () => {
    const areaSectors = fc.integer({ min: 5, max: 64 });
    const sizes = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 40 });
    fc.assert(
      fc.property(areaSectors, sizes, (sectors, fractions) => {
        const size = sectors * 512;
        const device = Buffer.alloc(START + size, 0xaa);
        let mda = header(size);
        let before: { readonly place: RawLocn; readonly text: Buffer } | null = null;
        fractions.forEach((fraction, index) => {
          const length = 1 + Math.floor(fraction * (maxTextBytes(size) - 1));
          const text = Buffer.alloc(length, 1 + (index % 250));
          const offset = nextTextOffset(mda, committedText(mda), length, DEVICE);
          for (const write of textWrites(mda, offset, text)) write.bytes.copy(device, write.offset);
          if (before !== null)
            verifyText(readText(device, mda, before.place), before.place, { device: DEVICE, offset });
          const place = textLocn(offset, text);
          verifyText(readText(device, mda, place), place, { device: DEVICE, offset });
          mda = header(size, place);
          before = { place, text };
        });
        assert.ok(device.subarray(0, START + MDA_HEADER_BYTES).every((byte) => byte === 0xaa));
      }),
      { numRuns: 200 },
    );
  });

  test('a write is padded to its sector with zeros', () => {
    const mda = header(SIZE);
    const [only] = textWrites(mda, 512, Buffer.alloc(700, 1));
    assert.deepEqual([only?.offset, only?.bytes.length, only?.bytes.at(-1)], [START + 512, 1024, 0]);
    const wrapped = textWrites(mda, SIZE - 512, Buffer.alloc(700, 1));
    assert.deepEqual(
      wrapped.map(({ offset, bytes }) => [offset, bytes.length]),
      [
        [START + SIZE - 512, 512],
        [START + 512, 512],
      ],
    );
  });
});

describe('damaged metadata areas', () => {
  const text = Buffer.from('contents of some text\0');
  const good = header(SIZE, textLocn(512, text), textLocn(1024, text));
  const where = { device: DEVICE, offset: START };

  test('each flipped byte of the header is an error', () => {
    for (let at = 0; at < MDA_HEADER_BYTES; at++) {
      for (const flip of [0x01, 0x80, 0xff]) {
        const sector = encodeMdaHeader(good);
        sector.writeUInt8(sector.readUInt8(at) ^ flip, at);
        const code = at >= 4 && at < 20 ? 'BAD_MAGIC' : 'BAD_CRC';
        assert.throws(() => decodeMdaHeader(sector, where), rejects(code), `byte ${at}`);
      }
    }
  });

  test('each truncation of the header is an error', () => {
    const sector = encodeMdaHeader(good);
    for (let length = 0; length < MDA_HEADER_BYTES; length++) {
      assert.throws(() => decodeMdaHeader(sector.subarray(0, length), where), rejects('TRUNCATED'));
    }
  });

  test('each flipped byte and each truncation of the text is an error', () => {
    for (let at = 0; at < text.length; at++) {
      const flipped = Buffer.from(text);
      flipped.writeUInt8(flipped.readUInt8(at) ^ 0x20, at);
      assert.throws(() => verifyText(flipped, good.slots[0], where), rejects('BAD_CRC'));
      assert.throws(() => verifyText(text.subarray(0, at), good.slots[0], where), rejects('TRUNCATED'));
    }
  });

  test('each byte changed under a right checksum gives ranges inside the ring or a FormatError', () => {
    for (let at = 4; at < 88; at++) {
      for (const flip of [0x01, 0x10, 0x80, 0xff]) {
        const sector = encodeMdaHeader(good);
        sector.writeUInt8(sector.readUInt8(at) ^ flip, at);
        sector.writeUInt32LE(lvmCrc(sector.subarray(4)), 0);
        try {
          const mda = decodeMdaHeader(sector, where);
          for (const range of readRanges(mda, mda.slots[0], DEVICE)) {
            assert.ok(range.size > 0 && range.offset >= START + 512 && range.offset + range.size <= START + mda.size);
          }
        } catch (error) {
          assert.ok(error instanceof FormatError, `byte ${at}: ${String(error)}`);
        }
      }
    }
  });

  function reseal(change: (sector: Buffer) => void): Buffer {
    const sector = encodeMdaHeader(good);
    change(sector);
    sector.writeUInt32LE(lvmCrc(sector.subarray(4)), 0);
    return sector;
  }

  const hostile: readonly (readonly [string, (sector: Buffer) => void, string])[] = [
    ['version 2', (sector) => sector.writeUInt32LE(2, 20), 'BAD_VERSION'],
    ['a start elsewhere', (sector) => sector.writeUInt32LE(8192, 24), 'BAD_FIELD'],
    ['a size below the header', (sector) => sector.writeUInt32LE(511, 32), 'BAD_FIELD'],
    ['a size of 2^64 - 1', (sector) => sector.fill(0xff, 32, 40), 'TOO_LARGE'],
  ];
  for (const [name, change, code] of hostile) {
    test(name, () => {
      assert.throws(() => decodeMdaHeader(reseal(change), where), rejects(code));
    });
  }

  for (const [offset, size] of [
    [SIZE, 1],
    [511, 10],
    [512, SIZE - 511],
    [512, 0],
    [2 ** 52, 2 ** 52],
  ] as const) {
    test(`a text of ${size} bytes at ${offset}`, () => {
      assert.throws(() => readRanges(header(SIZE), locn(offset, size), DEVICE), rejects('OUT_OF_RANGE'));
    });
  }

  test('a leftover precommit slot is seen and harmless', () => {
    const mda = decodeMdaHeader(encodeMdaHeader(good), where);
    assert.ok(hasPrecommit(mda));
    assert.deepEqual(committedText(mda), good.slots[0]);
  });
});
