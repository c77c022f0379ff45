/** The flat map against the definition of its targets, and what flattening joins. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { MemoryDevice } from '../../src/block/memory.ts';
import { compileMap, LEG_ERROR, LEG_ZERO, type MapSegment } from '../../src/dm/flat-map.ts';
import type { Leg, Mapping } from '../../src/dm/target.ts';

const a = new MemoryDevice({ name: 'a', sizeBytes: 2 ** 52 });
const b = new MemoryDevice({ name: 'b', sizeBytes: 2 ** 52 });

function run(device: MemoryDevice, offset: number): Mapping {
  return { kind: 'legs', chunkBytes: 0, legs: [{ device, offset }] };
}

/** Segments of these lengths, one after the other. */
function tiled(parts: readonly (readonly [number, Mapping])[]): MapSegment[] {
  let start = 0;
  return parts.map(([length, mapping]) => {
    start += length;
    return { start: start - length, length, mapping };
  });
}

function count(...parts: readonly (readonly [number, Mapping])[]): number {
  return compileMap(tiled(parts)).map.segmentCount;
}

/** Where a byte is by the targets' definition: device and offset, or what stands for them. */
function defined(segments: readonly MapSegment[], byte: number): string {
  const segment = segments.find(({ start, length }) => byte >= start && byte < start + length)!;
  const { mapping } = segment;
  if (mapping.kind !== 'legs') return mapping.kind;
  const at = byte - segment.start;
  const count = mapping.legs.length;
  const chunk = mapping.chunkBytes === 0 ? segment.length : mapping.chunkBytes;
  const leg = mapping.legs[Math.floor(at / chunk) % count]!;
  return `${leg.device.name} ${leg.offset + Math.floor(at / (chunk * count)) * chunk + (at % chunk)}`;
}

const legArbitrary = fc.record({ device: fc.constantFrom(a, b), offset: fc.nat({ max: 100 }) });
const mappingArbitrary: fc.Arbitrary<readonly [number, Mapping]> = fc.oneof(
  fc.tuple(fc.integer({ min: 1, max: 20 }), fc.constantFrom<Mapping>({ kind: 'zero' }, { kind: 'error' })),
  fc.tuple(
    fc.integer({ min: 1, max: 20 }),
    legArbitrary.map((leg): Mapping => run(leg.device, leg.offset)),
  ),
  fc
    .record({
      legs: fc.array(legArbitrary, { minLength: 1, maxLength: 5 }),
      chunkBytes: fc.integer({ min: 1, max: 7 }),
      rows: fc.integer({ min: 1, max: 4 }),
    })
    .map(
      ({ legs, chunkBytes, rows }) => [legs.length * chunkBytes * rows, { kind: 'legs', chunkBytes, legs }] as const,
    ),
);

describe('flat map', () => {
  test('puts every byte where its target says, in any order of looking', () => {
    fc.assert(
      fc.property(
        fc.array(mappingArbitrary, { minLength: 1, maxLength: 8 }),
        fc.array(fc.tuple(fc.nat(), fc.nat({ max: 40 })), { maxLength: 30 }),
        (parts, looks) => {
          const segments = tiled(parts);
          const { map } = compileMap(segments);
          for (const [at, wanted] of looks) {
            const offset = at % map.sizeBytes;
            const length = Math.min(map.sizeBytes - offset, wanted + 1);
            map.resolve(offset, length);
            assert(map.length >= 1 && map.length <= length);
            for (let i = 0; i < map.length; i++) {
              const sink = map.sinks[map.leg];
              const name = sink === a ? 'a' : 'b';
              const found =
                map.leg === LEG_ZERO ? 'zero' : map.leg === LEG_ERROR ? 'error' : `${name} ${map.legOffset + i}`;
              assert.equal(found, defined(segments, offset + i));
            }
          }
        },
      ),
      { numRuns: 300 },
    );
  });

  test('a range of a chunked segment is one range on each leg', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 6 }),
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 5 }),
        fc.nat(),
        fc.nat(),
        (count, chunkBytes, rows, x, y) => {
          const legs = Array.from({ length: count }, (_, i): Leg => ({ device: a, offset: 1000 * i }));
          const segments = tiled([
            [3, { kind: 'zero' }],
            [count * chunkBytes * rows, { kind: 'legs', chunkBytes, legs }],
          ]);
          const { map } = compileMap(segments);
          const size = map.sizeBytes - 3;
          const [from, to] = [3 + (x % (size + 1)), 3 + (y % (size + 1))].sort((p, q) => p - q) as [number, number];
          const expected = new Set<string>();
          for (let byte = from; byte < to; byte++) expected.add(defined(segments, byte));
          const found = new Set<string>();
          for (let leg = 0; leg < count; leg++) {
            const end = map.legPosition(1, leg, to);
            for (let at = map.legPosition(1, leg, from); at < end; at++) found.add(`a ${at}`);
          }
          assert.deepEqual(found, expected);
        },
      ),
      { numRuns: 300 },
    );
  });

  test('joins what continues and nothing else', () => {
    assert.equal(count([8, run(a, 0)], [8, run(a, 8)], [4, run(a, 16)]), 1);
    assert.equal(count([8, run(a, 0)], [8, run(a, 9)]), 2);
    assert.equal(count([8, run(a, 0)], [8, run(b, 8)]), 2);
    assert.equal(count([8, run(a, 8)], [8, run(a, 0)]), 2);
    assert.equal(
      count([8, { kind: 'zero' }], [8, { kind: 'zero' }], [8, { kind: 'error' }], [1, { kind: 'error' }]),
      2,
    );
    assert.equal(count([8, run(a, 0)], [8, { kind: 'zero' }], [8, run(a, 8)]), 3);
    const chunked: Mapping = { kind: 'legs', chunkBytes: 4, legs: [{ device: a, offset: 0 }] };
    assert.equal(count([8, chunked], [8, run(a, 8)], [8, chunked]), 3);
  });

  test('legs of joined segments are counted from the same leg', () => {
    const { map, firstLegs } = compileMap(
      tiled([
        [8, run(a, 0)],
        [8, run(a, 8)],
        [8, run(b, 0)],
      ]),
    );
    assert.deepEqual([...firstLegs], [0, 0, 1]);
    assert.equal(map.errors.length, 2);
  });

  test('flushes each distinct device that can be written', () => {
    const frozen = new MemoryDevice({ name: 'frozen', sizeBytes: 4096, readOnly: true });
    const { map } = compileMap(
      tiled([
        [8, run(a, 0)],
        [8, run(b, 0)],
        [8, run(a, 100)],
        [8, run(frozen, 0)],
      ]),
    );
    assert.deepEqual(map.flushSinks, [a, b]);
  });

  test('is exact near 2^53, with chunks of any size', () => {
    const chunkBytes = 3 * 512;
    const rows = Math.floor(2 ** 53 / (3 * chunkBytes)) - 1;
    const legs = [0, 1, 2].map((): Leg => ({ device: a, offset: 0 }));
    const { map } = compileMap(tiled([[rows * 3 * chunkBytes, { kind: 'legs', chunkBytes, legs }]]));
    for (const [leg, inChunk] of [
      [0, 0],
      [0, 1],
      [1, chunkBytes - 1],
      [2, chunkBytes - 1],
    ] as const) {
      map.resolve((rows - 1) * 3 * chunkBytes + leg * chunkBytes + inChunk, 1);
      assert.deepEqual([map.leg, map.legOffset], [leg, (rows - 1) * chunkBytes + inChunk]);
    }
  });

  test('finds its way in 100,000 segments', () => {
    const parts = Array.from({ length: 100_000 }, (_, i) => [512, run(i % 2 === 0 ? a : b, i * 1024)] as const);
    const { map } = compileMap(tiled(parts));
    assert.equal(map.segmentCount, 100_000);
    for (let i = 0; i < 100_000; i += 997) {
      map.resolve(i * 512 + 511, 2);
      assert.deepEqual([map.leg, map.legOffset, map.length], [i, i * 1024 + 511, 1]);
    }
  });
});
