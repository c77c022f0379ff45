/**
 * The exception store's format: against stores that the kernel wrote (golden volume group, samples), and by properties.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import * as fc from 'fast-check';
import { FormatError } from '../../src/ondisk/errors.ts';
import {
  clearRecords,
  decodeArea,
  decodeSnapshotHeader,
  encodeSnapshotHeader,
  newChunkAt,
  oldChunkAt,
  putRecord,
  recordBytes,
  StoreGeometry,
} from '../../src/ondisk/snapshot-store.ts';
import { SHARED, unpackGolden, withTemporaryFolder } from '../helpers/shared.ts';

const WHERE = { device: 'cow', offset: 0 };

interface Store {
  readonly valid: boolean;
  readonly chunkSectors: number;
  readonly exceptions: readonly (readonly [number, number])[];
  /** The store's first chunk and its areas as encoded from what was decoded, by offset. */
  readonly encoded: ReadonlyMap<number, Buffer>;
}

function decodeStore(image: Buffer): Store {
  const header = decodeSnapshotHeader(image, WHERE);
  assert(header !== null);
  const geometry = new StoreGeometry(header.chunkSectors);
  const { chunkBytes } = geometry;
  const exceptions: (readonly [number, number])[] = [];
  const encoded = new Map([[0, encodeSnapshotHeader(header)]]);
  for (let area = 0, full = true; full && geometry.hasArea(area, image.length); area++) {
    const at = geometry.areaChunk(area) * chunkBytes;
    const copy = Buffer.alloc(chunkBytes);
    let index = 0;
    const where = { device: 'cow', offset: at };
    const bytes = image.subarray(at, at + chunkBytes);
    const count = decodeArea(bytes, geometry, image.length, where, (oldChunk, newChunk) => {
      exceptions.push([oldChunk, newChunk]);
      assert.deepEqual([oldChunkAt(bytes, index), newChunkAt(bytes, index)], [oldChunk, newChunk]);
      putRecord(copy, index++, oldChunk, newChunk);
    });
    assert.equal(count, index);
    encoded.set(at, copy);
    full = count === geometry.exceptionsPerArea;
  }
  return { valid: header.valid, chunkSectors: header.chunkSectors, exceptions, encoded };
}

function encodesBack(image: Buffer, store: Store): void {
  for (const [at, bytes] of store.encoded)
    assert(bytes.equals(image.subarray(at, at + bytes.length)), `chunk at ${at}`);
}

describe('stores that the kernel wrote', () => {
  const samples: readonly (readonly [string, boolean, number, number])[] = [
    ['sn1', true, 8, 323],
    ['sn1_fresh', true, 8, 0],
    ['sn2', true, 32, 7],
    ['sn3_overflow', false, 8, 1],
    ['merge/before', true, 8, 360],
    ['merge/m5', true, 8, 340],
    ['merge/m7', true, 8, 300],
    ['merge/after', true, 8, 0],
  ];
  for (const [name, valid, chunkSectors, count] of samples) {
    test(name, () => {
      const image = gunzipSync(readFileSync(join(SHARED, 'samples/dm/snapshot', `${name}.bin.gz`)));
      const store = decodeStore(image);
      assert.deepEqual([store.valid, store.chunkSectors, store.exceptions.length], [valid, chunkSectors, count]);
      encodesBack(image, store);
    });
  }

  test('the golden snapshots', async () => {
    await withTemporaryFolder(async (folder) => {
      const golden = await unpackGolden('snap', folder);
      const [first = '', second = ''] = golden.images;
      // vg.txt: s1 from extent 32 of pv0, s2 from extent 0 of pv1, 24 extents of 1 MiB behind the first MiB.
      const stores = [
        { image: readFileSync(first).subarray(33 << 20, 57 << 20), chunkSectors: 8 },
        { image: readFileSync(second).subarray(1 << 20, 25 << 20), chunkSectors: 128 },
      ];
      for (const { image, chunkSectors } of stores) {
        const store = decodeStore(image);
        assert.equal(store.valid, true);
        assert.equal(store.chunkSectors, chunkSectors);
        assert(store.exceptions.length > 0);
        encodesBack(image, store);
      }
    });
  });
});

const chunkSizes = fc.integer({ min: 0, max: 10 }).map((power) => 2 ** power);

describe('geometry', () => {
  test('every chunk is the header, an area, or the data of one area', () => {
    fc.assert(
      fc.property(chunkSizes, (sectors) => {
        const geometry = new StoreGeometry(sectors);
        const stride = geometry.exceptionsPerArea + 1;
        let data = 2;
        for (let area = 0; area < 3; area++) {
          assert.equal(geometry.areaChunk(area), 1 + area * stride);
          assert(geometry.isAreaChunk(geometry.areaChunk(area)));
          assert.equal(data, geometry.areaChunk(area) + 1);
          for (let i = 0; i < geometry.exceptionsPerArea; i++) {
            assert(!geometry.isAreaChunk(data));
            data = geometry.nextDataChunk(data);
          }
        }
      }),
      { numRuns: 11 },
    );
  });

  test('the last chunk before an area counts only with that area', () => {
    const geometry = new StoreGeometry(1);
    const last = geometry.areaChunk(1) - 1;
    assert.equal(geometry.hasRoomFor(last, (last + 1) * 512), false);
    assert.equal(geometry.hasRoomFor(last, (last + 2) * 512), true);
    assert.equal(geometry.hasRoomFor(last - 1, last * 512), true);
    assert.equal(geometry.hasRoomFor(last - 1, last * 512 - 1), false);
    assert.equal(geometry.hasArea(1, (last + 2) * 512), true);
    assert.equal(geometry.hasArea(1, (last + 2) * 512 - 1), false);
  });
});

function pairs(sectors: number): fc.Arbitrary<(readonly [number, number])[]> {
  const geometry = new StoreGeometry(sectors);
  const data = fc.nat({ max: 5000 }).map((n) => (geometry.isAreaChunk(n + 2) ? n + 3 : n + 2));
  return fc.array(
    fc.tuple(
      fc.nat({ max: 2 ** 31 - 1 }).map((n) => n * 512 + 3),
      data,
    ),
    {
      maxLength: Math.min(200, geometry.exceptionsPerArea),
    },
  );
}

describe('properties', () => {
  test('an area decodes to what was encoded', () => {
    fc.assert(
      fc.property(
        chunkSizes.chain((sectors) => fc.tuple(fc.constant(sectors), pairs(sectors))),
        ([sectors, list]) => {
          const geometry = new StoreGeometry(sectors);
          const area = Buffer.alloc(geometry.chunkBytes);
          list.forEach(([oldChunk, newChunk], i) => putRecord(area, i, oldChunk, newChunk));
          const found: (readonly [number, number])[] = [];
          const count = decodeArea(area, geometry, 2 ** 40, WHERE, (oldChunk, newChunk) =>
            found.push([oldChunk, newChunk]),
          );
          assert.equal(count, list.length);
          assert.deepEqual(found, list);
          clearRecords(area, 0, list.length);
          assert(area.every((byte) => byte === 0));
          const { start, end } = recordBytes(0, list.length, 512);
          assert.equal(start, 0);
          assert(end >= list.length * 16 && end <= geometry.chunkBytes && end - list.length * 16 < 512);
        },
      ),
    );
  });

  test('any bytes decode to exceptions inside the device, or to an error that says where', () => {
    const interesting = fc.constantFrom(0, 1, 2, 3, 33, 34, 35, 66, 2 ** 20, 2 ** 32 - 1);
    const geometry = new StoreGeometry(1);
    fc.assert(
      fc.property(fc.array(interesting, { minLength: 128, maxLength: 128 }), (words) => {
        const area = Buffer.from(new Uint32Array(words).buffer);
        const size = 100 * 512;
        try {
          decodeArea(area, geometry, size, { device: 'cow', offset: 512 }, (oldChunk, newChunk) => {
            assert(newChunk >= 2 && newChunk < 100 && !geometry.isAreaChunk(newChunk));
            assert(oldChunk < 2 ** 40);
          });
        } catch (error) {
          assert(error instanceof FormatError);
          assert.match(error.message, /^cow at byte \d+: exception, (old|new) chunk: .*expected .*, found \d+/);
          assert((error.offset - 512) % 16 === 0);
        }
      }),
    );
  });
});

describe('the header', () => {
  const header = encodeSnapshotHeader({ valid: true, chunkSectors: 8 });
  const broken: readonly (readonly [string, (bytes: Buffer) => void, RegExp])[] = [
    ['magic', (bytes) => bytes.writeUInt32LE(7, 0), /snapshot header: wrong magic, expected 0x70416e53, found 0x7$/],
    ['version', (bytes) => bytes.writeUInt32LE(2, 8), /unsupported version, expected 1, found 2$/],
    [
      'no chunk size',
      (bytes) => bytes.writeUInt32LE(0, 12),
      /chunk size: bad value, expected a power of two.*found 0$/,
    ],
    ['an odd chunk size', (bytes) => bytes.writeUInt32LE(24, 12), /chunk size.*found 24$/],
    ['a huge chunk size', (bytes) => bytes.writeUInt32LE(2 ** 31, 12), /chunk size.*found 2147483648$/],
    ['valid', (bytes) => bytes.writeUInt32LE(2, 4), /valid: bad value, expected 0 or 1, found 2$/],
  ];
  for (const [name, breakIt, message] of broken) {
    test(`is refused: ${name}`, () => {
      const bytes = Buffer.from(header);
      breakIt(bytes);
      assert.throws(() => decodeSnapshotHeader(bytes, WHERE), { name: 'FormatError', message });
    });
  }

  test('is refused when it is cut off', () => {
    assert.throws(() => decodeSnapshotHeader(header.subarray(0, 15), WHERE), { code: 'TRUNCATED' });
  });

  test('without a magic is no header yet', () => {
    assert.equal(decodeSnapshotHeader(Buffer.alloc(512), WHERE), null);
    assert.equal(decodeSnapshotHeader(Buffer.concat([Buffer.alloc(4), Buffer.alloc(508, 0xff)]), WHERE), null);
  });

  test('fills its chunk', () => {
    fc.assert(
      fc.property(chunkSizes, fc.boolean(), (chunkSectors, valid) => {
        const bytes = encodeSnapshotHeader({ valid, chunkSectors });
        assert.equal(bytes.length, chunkSectors * 512);
        assert.deepEqual(decodeSnapshotHeader(bytes, WHERE), { valid, chunkSectors });
      }),
    );
  });
});
