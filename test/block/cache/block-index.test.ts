/** The index of a block cache beside a Map: frames are found by their keys, whatever came and went before. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { BlockIndex } from '../../../src/block/cache/block-index.ts';

const FRAMES = 40;
/** Few leaves, with neighbours and far away ones, on the first device and on the last. */
const bases = [0, 16, 32, 160, 2 ** 31 - 16, 2 ** 32, 2 ** 40, 2 ** 41, 4095 * 2 ** 41, 2 ** 53 - 16];
const keys = fc.tuple(fc.constantFrom(...bases), fc.nat(15)).map(([base, within]) => base + within);

describe('the index of a block cache', () => {
  test('finds what a map does', () => {
    fc.assert(
      fc.property(fc.array(keys, { maxLength: 400 }), (steps) => {
        const index = new BlockIndex(FRAMES);
        const model = new Map<number, number>();
        const free = Array.from({ length: FRAMES }, (_, i) => i);
        for (const key of steps) {
          const known = model.get(key);
          if (known !== undefined) {
            index.remove(key);
            model.delete(key);
            free.push(known);
          } else if (free.length > 0) {
            const frame = free.pop() ?? assert.fail();
            index.add(key, frame);
            model.set(key, frame);
          }
          assert.equal(index.find(key), model.get(key) ?? -1);
        }
        for (const base of bases) {
          for (let within = 0; within < 16; within++) {
            assert.equal(index.find(base + within), model.get(base + within) ?? -1, `key ${base} + ${within}`);
          }
        }
      }),
      { numRuns: 300 },
    );
  });

  test('takes as many leaves as there are frames, again and again', () => {
    const index = new BlockIndex(FRAMES);
    for (let round = 0; round < 50; round++) {
      const base = (round % 3) * 2 ** 41;
      for (let frame = 0; frame < FRAMES; frame++) index.add(base + frame * 16 + (frame % 16), frame);
      for (let frame = 0; frame < FRAMES; frame++) {
        assert.equal(index.find(base + frame * 16 + (frame % 16)), frame);
        assert.equal(index.find(base + frame * 16 + ((frame + 1) % 16)), -1);
      }
      for (let frame = 0; frame < FRAMES; frame++)
        index.remove(base + ((frame * 7) % FRAMES) * 16 + (((frame * 7) % FRAMES) % 16));
      assert.equal(index.find(base), -1);
    }
  });
});
