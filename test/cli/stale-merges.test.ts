/** What the daemon has noted of a merge that waits, and the metadata no longer say. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { waitFor } from '../helpers/daemon.ts';
import { NbdWriter } from '../helpers/nbd-writer.ts';
import { SnapshotStand } from '../helpers/snapshot-stand.ts';

const MIB = 2 ** 20;

test('a merge that was to wait and was taken back makes no other one wait', { timeout: 60_000 }, async () => {
  await SnapshotStand.with(async (stand) => {
    await stand.serve('0');
    const note = join(dirname(stand.daemon.socket), 'control.sock.merges');
    await stand.must('lvcreate', '-s', '-L44M', '-ns', 'vg/o');
    await stand.must('lvcreate', '-s', '-L44M', '-nt', 'vg/o');
    await stand.must('vgcfgbackup', '-f', join(stand.folder, 'before'), 'vg');
    const defer = async (): Promise<void> => {
      const writer = new NbdWriter(() => stand.daemon.socket, 'vg/o', 40 * MIB);
      writer.start();
      await waitFor('writes', () => writer.writes > 10);
      assert.match(await stand.must('lvconvert', '--merge', 'vg/s'), /Delaying merge since origin is open/);
      await writer.stop();
    };
    await defer();
    assert.ok(existsSync(note));
    await stand.must('vgcfgrestore', '--force', '--yes', '-f', join(stand.folder, 'before'), 'vg');
    assert.deepEqual(existsSync(note), false, 'the note has gone');
    const content = await stand.hash('t');
    assert.match(await stand.must('lvconvert', '--merge', 'vg/t'), /Merging of volume vg\/t started/);
    assert.equal(await stand.hash('o'), content);
    await waitFor('the end of the merge', async () => !(await stand.volumes()).some((line) => /^\[?t\b/.test(line)));

    // Of an LV that is no more, nothing is left.
    await defer();
    await stand.must('lvremove', '-f', 'vg/o');
    assert.equal(existsSync(note), false);
  });
});

test('metadata from before a merge, restored in its middle, give the snapshot as it was, and it can be merged again', async () => {
  await SnapshotStand.with(async (stand) => {
    const before = join(stand.folder, 'before');
    await stand.serve('1');
    await stand.must('lvcreate', '-s', '-L44M', '-ns', 'vg/o');
    await stand.write('o', 24, 1);
    const content = await stand.hash('s');
    await stand.must('vgcfgbackup', '-f', before, 'vg');
    await stand.must('lvconvert', '--merge', '-b', 'vg/s');
    await stand.stop('SIGKILL');
    assert.deepEqual(await stand.volumes(), ['o Owi---s--- 40.00m', '[s] Swi---s--- 44.00m o']);
    await stand.must('vgcfgrestore', '--force', '--yes', '-f', before, 'vg');
    assert.deepEqual(await stand.volumes(), ['o owi---s--- 40.00m', 's swi---s--- 44.00m o']);
    await stand.serve('1');
    assert.equal(await stand.hash('s'), content);
    await stand.must('lvconvert', '--merge', 'vg/s');
    await waitFor('the end of the merge', async () => (await stand.volumes()).length === 1);
    assert.equal(await stand.hash('o'), content);
  });
});
