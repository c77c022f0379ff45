/** Labels and PV headers: real ones, made ones, and every way to damage them. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { lvmCrc } from '../../src/ondisk/crc.ts';
import { FormatError } from '../../src/ondisk/errors.ts';
import {
  decodeLabel,
  encodeLabel,
  findLabel,
  type Label,
  LABEL_SCAN_BYTES,
  SECTOR_BYTES,
} from '../../src/ondisk/label.ts';
import { formatUuid, isUuid, newUuid, parseUuid } from '../../src/ondisk/uuid.ts';
import { PV_FIXTURES, pvBytes } from './samples.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const DEVICE = '/dev/test';

function label(change: Partial<Label> = {}): Label {
  return {
    sector: 1,
    uuid: 'abcdef-ghij-klmn-opqr-stuv-wxyz-012345',
    deviceSizeBytes: 256 * MIB,
    dataAreas: [{ offset: MIB, size: 0 }],
    metadataAreas: [{ offset: 4096, size: MIB - 4096 }],
    extensionVersion: 2,
    extensionFlags: 1,
    bootloaderAreas: [],
    ...change,
  };
}

function firstSectors(sector: number, bytes: Buffer): Buffer {
  const first = Buffer.alloc(LABEL_SCAN_BYTES);
  bytes.copy(first, sector * SECTOR_BYTES);
  return first;
}

/** Changes a label's sector and makes its checksum right again: a hostile label instead of a damaged one. */
function resealed(bytes: Buffer): Buffer {
  bytes.writeUInt32LE(lvmCrc(bytes.subarray(20)), 16);
  return bytes;
}

function decodeHostile(change: (sector: Buffer) => void, base: Label = label()): Label {
  const sector = encodeLabel(base);
  change(sector);
  return decodeLabel(resealed(sector), { device: DEVICE, offset: SECTOR_BYTES });
}

describe('real labels', () => {
  const facts: readonly Partial<Label>[] = [
    {
      sector: 1,
      uuid: 'Gao5up-I9yF-0ncI-i1G6-u1XT-YcjA-UVO5dc',
      metadataAreas: [
        { offset: 4096, size: 1044480 },
        { offset: 267386880, size: 1048576 },
      ],
    },
    { sector: 1, metadataAreas: [], dataAreas: [{ offset: MIB, size: 0 }] },
    { bootloaderAreas: [{ offset: MIB, size: 3 * MIB }], dataAreas: [{ offset: 4 * MIB, size: 0 }] },
    { metadataAreas: [{ offset: 4096, size: 8388096 }], dataAreas: [{ offset: 8392192, size: 0 }] },
    { sector: 3 },
    { deviceSizeBytes: 100 * MIB, extensionVersion: 2, extensionFlags: 1 },
    { uuid: 'wt44jX-cQNA-pKwD-gFed-485V-23dp-tDrHBK', deviceSizeBytes: 256 * MIB },
  ];
  PV_FIXTURES.forEach((name, index) => {
    test(name, () => {
      const bytes = pvBytes(name);
      const problems: FormatError[] = [];
      const found = findLabel(bytes, DEVICE, problems);
      assert.ok(found);
      assert.deepEqual(problems, []);
      assert.deepEqual({ ...found, ...facts[index] }, found);
      const at = found.sector * SECTOR_BYTES;
      assert.deepEqual(encodeLabel(found), Buffer.from(bytes.subarray(at, at + SECTOR_BYTES)));
    });
  });
});

describe('made labels', () => {
  for (const sector of [0, 1, 2, 3]) {
    for (const extensionVersion of [0, 1, 2]) {
      test(`sector ${sector}, extension version ${extensionVersion}`, () => {
        const made = label({
          sector,
          extensionVersion,
          extensionFlags: extensionVersion === 2 ? 1 : 0,
          bootloaderAreas: extensionVersion === 0 ? [] : [{ offset: MIB, size: 64 * KIB }],
        });
        assert.deepEqual(findLabel(firstSectors(sector, encodeLabel(made)), DEVICE), made);
      });
    }
  }

  test('the first of two labels counts', () => {
    const first = firstSectors(1, encodeLabel(label()));
    encodeLabel(label({ sector: 3, uuid: newUuid() })).copy(first, 3 * SECTOR_BYTES);
    const problems: FormatError[] = [];
    assert.deepEqual(findLabel(first, DEVICE, problems), label());
    assert.deepEqual(
      problems.map(({ code, offset }) => ({ code, offset })),
      [{ code: 'INCONSISTENT', offset: 3 * SECTOR_BYTES }],
    );
  });

  test('a label in another sector than it says is none', () => {
    const problems: FormatError[] = [];
    assert.equal(findLabel(firstSectors(2, encodeLabel(label())), DEVICE, problems), null);
    assert.deepEqual([problems[0]?.code, problems[0]?.expected, problems[0]?.actual], ['BAD_FIELD', 2, 1]);
    assert.match(problems[0]?.message ?? '', /\/dev\/test at byte 1024: label sector number: .*expected 2, found 1/);
  });

  test('a device shorter than four sectors is looked at as far as it goes', () => {
    const first = firstSectors(1, encodeLabel(label()));
    assert.deepEqual(findLabel(first.subarray(0, 1024), DEVICE), label());
    assert.equal(findLabel(first.subarray(0, 1023), DEVICE), null);
    assert.equal(findLabel(Buffer.alloc(0), DEVICE), null);
  });

  test('what does not fit is a mistake of the caller', () => {
    const metadataAreas = Array.from({ length: 27 }, (_, index) => ({ offset: (index + 1) * MIB, size: MIB }));
    assert.throws(() => encodeLabel(label({ metadataAreas })), /do not fit/);
    assert.throws(() => encodeLabel(label({ dataAreas: [{ offset: 0, size: 0 }] })), /offset 0 ends a list/);
    assert.throws(() => encodeLabel(label({ uuid: 'short' })), /not a PV uuid/);
    assert.throws(() => encodeLabel(label({ deviceSizeBytes: 2 ** 53 })), /not a u64/);
  });
});

describe('damaged labels', () => {
  const good = label({ bootloaderAreas: [{ offset: MIB, size: 64 * KIB }] });

  test('each flipped byte makes it no label, with a problem that says where', () => {
    for (let at = 0; at < SECTOR_BYTES; at++) {
      for (const flip of [0x01, 0x80, 0xff]) {
        const first = firstSectors(1, encodeLabel(good));
        const place = SECTOR_BYTES + at;
        first.writeUInt8(first.readUInt8(place) ^ flip, place);
        const problems: FormatError[] = [];
        assert.equal(findLabel(first, DEVICE, problems), null, `byte ${at}`);
        // A sector without "LABELONE" is not a damaged label but no label at all.
        assert.equal(problems.length, at < 8 ? 0 : 1, `byte ${at}`);
        assert.ok(problems.every((problem) => problem.device === DEVICE && problem.offset === SECTOR_BYTES));
      }
    }
  });

  test('each truncation is an error', () => {
    const sector = encodeLabel(good);
    for (let length = 0; length < SECTOR_BYTES; length++) {
      assert.throws(
        () => decodeLabel(sector.subarray(0, length), { device: DEVICE, offset: SECTOR_BYTES }),
        (error) => error instanceof FormatError && error.code === 'TRUNCATED',
      );
    }
  });

  test('each byte changed under a right checksum gives a value or a FormatError', () => {
    for (let at = 20; at < SECTOR_BYTES; at++) {
      for (const flip of [0x01, 0x80, 0xff]) {
        try {
          decodeHostile((sector) => sector.writeUInt8(sector.readUInt8(at) ^ flip, at), good);
        } catch (error) {
          assert.ok(error instanceof FormatError, `byte ${at}: ${String(error)}`);
        }
      }
    }
  });

  test('hostile fields', () => {
    const cases: readonly (readonly [string, (sector: Buffer) => void, string])[] = [
      ['offset of the PV header beyond the sector', (s) => s.writeUInt32LE(0x2000, 20), 'OUT_OF_RANGE'],
      ['one byte too far', (s) => s.writeUInt32LE(SECTOR_BYTES - 39, 20), 'OUT_OF_RANGE'],
      ['inside the label header', (s) => s.writeUInt32LE(8, 20), 'OUT_OF_RANGE'],
      ['lists without an end', (s) => s.fill('\x01\0\0\0\0\0\0\0', 72), 'OUT_OF_RANGE'],
      ['bootloader list without an end', (s) => s.fill('\x01\0\0\0\0\0\0\0', 0x88), 'OUT_OF_RANGE'],
      ['device size of 2^63', (s) => s.writeUInt32LE(0x80000000, 0x44), 'TOO_LARGE'],
      ['uuid of zeros', (s) => s.fill(0, 32, 64), 'BAD_FIELD'],
    ];
    for (const [name, change, code] of cases) {
      assert.throws(
        () => decodeHostile(change),
        (error) => error instanceof FormatError && error.code === code,
        name,
      );
    }
  });

  test('lists that fill the sector leave no room for an extension', () => {
    const metadataAreas = Array.from({ length: 24 }, (_, index) => ({ offset: (index + 1) * MIB, size: MIB }));
    const full = label({ metadataAreas, extensionVersion: 0, extensionFlags: 0 });
    assert.deepEqual(findLabel(firstSectors(1, encodeLabel(full)), DEVICE), full);
  });
});

describe('uuids', () => {
  test('display and raw forms', () => {
    const display = 'IOZs2u-Jsuc-gaal-qpZ8-QMTJ-GGxC-t5k0Vz';
    assert.equal(parseUuid(display), 'IOZs2uJsucgaalqpZ8QMTJGGxCt5k0Vz');
    assert.equal(formatUuid('IOZs2uJsucgaalqpZ8QMTJGGxCt5k0Vz'), display);
    assert.equal(parseUuid('I-O-Zs2u-Jsucgaalqp-Z8QMTJGGxCt5k0Vz--'), 'IOZs2uJsucgaalqpZ8QMTJGGxCt5k0Vz');
  });

  test('what is no id', () => {
    const bad = ['', 'x', 'IOZs2u-Jsuc-gaal-qpZ8-QMTJ-GGxC-t5k0V', 'IOZs2u-Jsuc-gaal-qpZ8-QMTJ-GGxC-t5k0V_'];
    for (const text of [...bad, 'IOZs2uJsucgaalqpZ8QMTJGGxCt5k0Vzz']) assert.equal(isUuid(text), false, text);
    assert.ok(isUuid('!Zs2u#-Jsuc-gaal-qpZ8-QMTJ-GGxC-t5k0Vz'));
  });

  test('new ids are ids and differ', () => {
    const ids = new Set(Array.from({ length: 1000 }, () => newUuid()));
    assert.equal(ids.size, 1000);
    assert.ok([...ids].every((id) => isUuid(id) && id.length === 38));
  });
});
