/**
 * A few of LVM2's own tests, quick ones of many kinds, with our commands; `node test/lvm2-suite/run.ts` runs them all.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { expectedFailures, runSuite, surprises } from './suite.ts';

const QUICK: readonly string[] = [
  'error-usage',
  'lvm-init',
  'lvresize-rounding',
  'mda-rollback',
  'mdata-strings',
  'metadata-bad-mdaheader',
  'orphan-ondisk',
  'pvcreate-ff',
  'pv-ext-update',
  'vgremove-corrupt-vg',
];

test("LVM2's tests pass with our commands", async () => {
  const results = await runSuite({ tests: QUICK, jobs: 2, timeoutSeconds: 120, show: false });
  assert.deepEqual(surprises(QUICK, results, await expectedFailures()), []);
});
