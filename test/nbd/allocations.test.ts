/**
 * What the data path may allocate per request, by V8's own count: a regression shows here as a number, on any machine. Budgets
 * are about twice what is measured (docs/benchmarks.md): what a turn makes once, divided by its 32 requests, and boxed times.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { cached, codec, mapper, measure, measureTurns, type Round, wholePath } from '../../bench/path-load.ts';
import { Op } from '../../src/block/request.ts';

const ROUNDS = 3000;
const MAX_TRIES = 20;

describe('bytes allocated per request', () => {
  const cases: readonly (readonly [string, () => Round, number])[] = [
    ['decoding and judging', codec, 4],
    ['mapping', mapper, 40],
    ['READ of 4 KiB, whole path', () => wholePath(0, 4096), 100],
    ['READ of 4 KiB, structured, whole path', () => wholePath(0, 4096, { structuredReplies: true, contexts: [] }), 100],
    ['WRITE of 512 bytes, whole path', () => wholePath(1, 512), 60],
    ['WRITE of 4 KiB, whole path', () => wholePath(1, 4096), 60],
  ];
  for (const [name, make, budget] of cases) {
    test(`${name}: at most ${budget}`, () => {
      const round = make();
      // The compiler works beside us, and on a busy machine it takes its time.
      let bytes = Number.POSITIVE_INFINITY;
      for (let tries = 0; tries < MAX_TRIES && bytes > budget; tries++) bytes = measure(round, ROUNDS).bytes;
      assert(bytes <= budget, `${bytes.toFixed(1)} bytes per request`);
    });
  }

  const behindCache: readonly (readonly [string, () => Round, number])[] = [
    ['READ of 4 KiB from the block cache', () => cached(Op.read), 100],
    ['WRITE of 4 KiB into the block cache', () => cached(Op.write), 100],
    ['WRITE of 4 KiB that is written back, too', () => cached(Op.write, 2 ** 24), 200],
  ];
  for (const [name, make, budget] of behindCache) {
    test(`${name}: at most ${budget}`, async () => {
      const round = make();
      let bytes = Number.POSITIVE_INFINITY;
      for (let tries = 0; tries < MAX_TRIES && bytes > budget; tries++) {
        ({ bytes } = await measureTurns(round, ROUNDS));
      }
      assert(bytes <= budget, `${bytes.toFixed(1)} bytes per request`);
    });
  }
});
