/**
 * Disks with blocks of 4096 bytes: extents smaller than a block are refused as the real LVM2 refuses them, and leave nothing behind. Needs root,
 * lvm2 and gcc (test/setup).
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Lab, withLab } from './lab.ts';

const MIB = 1024 * 1024;
const MIXED = ['--config', 'devices/allow_mixed_block_sizes=1'];

/** Both refuse it with the same words, ours first, which must leave everything as it is. */
async function refused(lab: Lab, ...words: readonly string[]): Promise<void> {
  const [command = '', ...args] = words;
  const own = await lab.ours(command, ...args);
  await lab.agree();
  const real = await lab.theirs(command, ...args);
  assert.equal(own.status, real.status, words.join(' '));
  assert.equal(own.stderr, real.stderr, words.join(' '));
  assert.equal(own.status, 5);
}

async function done(lab: Lab, ...words: readonly string[]): Promise<void> {
  const [command = '', ...args] = words;
  const { status, stderr } = await lab.ours(command, ...args);
  assert.equal(status, 0, stderr);
}

test('extents are no smaller than the blocks of the disks', async () => {
  await withLab(
    [32 * MIB, 32 * MIB, 32 * MIB],
    async (lab) => {
      const [large = '', other = '', small = ''] = lab.devices;
      await done(lab, 'pvcreate', large, other, small);
      await refused(lab, 'vgcreate', '-s', '1k', 'vg', large);
      await done(lab, 'vgcreate', '-s', '4k', 'vg', large, other);
      await done(lab, 'lvcreate', '-an', '-l', '3', '-n', 'a', 'vg');
      await refused(lab, 'vgchange', '-s', '1k', 'vg');
      await refused(lab, 'vgchange', '-s', '512b', '--addtag', 't', 'vg');
      await done(lab, 'vgreduce', 'vg', other);
      await done(lab, 'vgcreate', '-s', '1k', 'odd', small);
      await refused(lab, 'vgextend', ...MIXED, 'odd', other);
      await lab.agree();
    },
    [4096, 4096, 512],
  );
});
