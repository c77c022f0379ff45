/**
 * Two of our processes and the real LVM2 change one volume group at the same time, with the same lock files: every change is
 * there afterwards, and nobody ever finds the VG in between. Needs root and lvm2 (test/setup).
 *
 * ORION_CONTENTION_ROUNDS makes it longer.
 */
import assert from 'node:assert/strict';
import { mkdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { scanDevices } from '../../src/lvm/scan.ts';
import { mustRun } from '../helpers/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { type Lvm2, withLvm2 } from '../lvm/lvm2.ts';

const ROUNDS = Number(process.env['ORION_CONTENTION_ROUNDS'] ?? '12');
const TAGGER = join(import.meta.dirname, 'tagger.ts');

async function lvm2Rounds(lvm: Lvm2, config: readonly string[]): Promise<void> {
  for (let round = 0; round < ROUNDS; round++) {
    const changes = [['--addtag', `lvm${round}`], ...(round % 2 === 1 ? [['--deltag', `lvm${round}`]] : [])];
    for (const change of changes) {
      const { status, stdout, stderr } = await lvm.run('vgchange', ...change, 'vg', ...config);
      assert.equal(status, 0, stderr + stdout);
    }
  }
}

void test('no update is lost', async () => {
  await withTemporaryFolder(async (folder) => {
    const files = ['a', 'b'].map((name) => join(folder, name));
    for (const file of files) {
      await writeFile(file, '');
      await truncate(file, 16 * 1024 * 1024);
    }
    const locks = join(folder, 'locks');
    await mkdir(locks);
    const config = ['--config', `global { locking_dir = "${locks}" }`];
    await withLvm2(files, async (lvm) => {
      const made = await lvm.run('vgcreate', 'vg', ...lvm.devices, ...config);
      assert.equal(made.status, 0, made.stderr);
      const ours = (prefix: string): Promise<string> =>
        mustRun(process.execPath, [TAGGER, prefix, String(ROUNDS), locks, ...lvm.devices]);
      await Promise.all([ours('a'), ours('b'), lvm2Rounds(lvm, config)]);
      const { volumeGroups, warnings } = await scanDevices(lvm.devices);
      const group = volumeGroups[0];
      const left = ['a', 'b', 'lvm'].flatMap((prefix) =>
        Array.from({ length: ROUNDS }, (_, round) => (round % 2 === 0 ? [`${prefix}${round}`] : [])).flat(),
      );
      assert.deepEqual(group?.vg.tags.toSorted(), left.toSorted());
      const changes = 3 * (ROUNDS + Math.floor(ROUNDS / 2));
      assert.equal(group.vg.seqno, 1 + changes);
      assert.deepEqual(warnings, []);
      assert.deepEqual(group.staleAreas, []);
    });
  });
});
