/**
 * Power cuts at every write and flush of copy-outs, area changes, merges and invalidations.
 *
 * What is checked in every state that the disks may be in
 *  - The origin holds in each sector what was durable, or something that was written since.
 *  - A snapshot is invalid only where it has run full; else it holds exactly what the origin was at its creation, and its own
 *    writes: those that were durable, and of the later ones any.
 *  - A merge goes on after the cut: what its origin reads as is the same before and after.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Scenario } from './snapshot-scenario.ts';

const SEEDS = (process.env['CRASH_SEEDS'] ?? '1,2').split(',').map(Number);

describe('a power cut', () => {
  for (const seed of SEEDS) {
    test(`while chunks are copied, seed ${seed}`, async () => {
      const scenario = new Scenario(64, seed);
      await scenario.snapshot('a', 1, 600);
      await scenario.write(2, 3, ['origin', 'a']);
      await scenario.snapshot('b', 8, 600);
      await scenario.write(6, 6, ['origin', 'a', 'b']);
      assert((await scenario.check(6, seed)) > 50);
    });

    test(`while areas become full, seed ${seed}`, async () => {
      // 32 exceptions in an area.
      const scenario = new Scenario(160, seed);
      await scenario.snapshot('a', 1, 400);
      await scenario.write(8, 4, ['origin', 'a']);
      assert((await scenario.check(6, seed)) > 50);
    });

    test(`while a snapshot becomes full and invalid, seed ${seed}`, async () => {
      const scenario = new Scenario(64, seed);
      await scenario.snapshot('small', 2, 30, true);
      await scenario.snapshot('large', 4, 600);
      await scenario.write(8, 4, ['origin', 'large']);
      assert.equal(scenario.family.statusOf('small'), 'Invalid');
      assert((await scenario.check(6, seed)) > 40);
    });

    test(`while a snapshot is merged, seed ${seed}`, async () => {
      const scenario = new Scenario(120, seed);
      await scenario.snapshot('a', 1, 400);
      await scenario.snapshot('b', 4, 600);
      await scenario.write(5, 5, ['origin', 'a']);
      await scenario.merge('a');
      await scenario.write(6, 2, ['origin', 'b']);
      await scenario.merged();
      await scenario.write(1, 2, ['origin', 'b']);
      assert((await scenario.check(6, seed)) > 20);
    });
  }
});
