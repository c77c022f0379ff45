/**
 * vgreduce --removemissing on volume groups that the real LVM2 made, a PV of which is gone: what stays, what goes and what is
 * made whole is what the real one makes of the same disks. Needs root, lvm2 and gcc (test/setup).
 */
import assert from 'node:assert/strict';
import { open, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Lab, withLab } from './lab.ts';

const MIB = 1024 * 1024;

/** Everything before the extents: labels and metadata. */
async function head(lab: Lab, index: number, bytes?: Buffer): Promise<Buffer> {
  const file = await open(join(lab.folder, `image${index}`), 'r+');
  try {
    const buffer = bytes ?? Buffer.alloc(MIB);
    if (bytes === undefined) await file.read(buffer, 0, MIB, 0);
    else await file.write(buffer, 0, MIB, 0);
    await file.sync();
    return buffer;
  } finally {
    await file.close();
  }
}

/** The LVs that are left, as the real one reports them. */
async function volumes(lab: Lab): Promise<readonly string[]> {
  const shown = await lab.theirs('lvs', '-a', '--noheadings', '-o', 'lv_full_name,segtype,devices,mirror_log', 'vg');
  assert.equal(shown.status, 0, shown.stderr);
  return shown.stdout.split('\n').map((line) => line.trim().replaceAll(lab.folder, ''));
}

/** Makes the same of the same disks with both, while one PV is gone. */
async function both(make: readonly string[], gone: number, ...options: readonly string[]): Promise<readonly string[]> {
  let result: readonly string[] = [];
  await withLab(
    [64, 64, 64, 64].map((mib) => mib * MIB),
    async (lab) => {
      const must = async (line: string): Promise<void> => {
        const [command = '', ...args] = line
          .split(' ')
          .map((word) => word.replace(/^P(\d)/, (_, n: string) => lab.devices[Number(n)] ?? ''));
        const { status, stderr } = await lab.theirs(command, ...args);
        assert.equal(status, 0, `${line}: ${stderr}`);
      };
      await must('vgcreate -s 1m vg P0 P1 P2 P3');
      for (const line of make) await must(line);
      const before = await Promise.all(lab.devices.map((_, index) => head(lab, index)));
      const node = lab.devices[gone] ?? '';
      const reduce = ['--removemissing', ...options, 'vg'];
      await rename(node, join(lab.folder, 'away'));
      const theirs = await lab.theirs('vgreduce', ...reduce);
      const theirVolumes = await volumes(lab);
      for (const [index, bytes] of before.entries()) await head(lab, index, bytes);
      const ours = await lab.ours('vgreduce', ...reduce);
      assert.equal(ours.status, theirs.status, `${ours.stderr}\n${theirs.stderr}`);
      result = await volumes(lab);
      assert.deepEqual(result, theirVolumes, `${ours.stderr}\n${theirs.stderr}`);
    },
  );
  return result;
}

const MIRROR = 'lvcreate -an -Zn --type mirror --nosync';

void test('mirrors lose the images that are gone', async () => {
  const make = [
    `${MIRROR} -m1 -l4 --mirrorlog core -n two vg P0 P1`,
    `${MIRROR} -m2 -l4 --mirrorlog core -n three vg P0 P1 P2`,
    `${MIRROR} -m1 -l4 --mirrorlog disk -n logged vg P1 P2 P3:0-50`,
    'lvcreate -an -Zn -l3 -n stays vg P0',
    'lvcreate -an -Zn -l3 -n goes vg P1',
  ];
  const left = await both(make, 1, '--force');
  assert(left.some((line) => /^vg\/two +linear/.test(line)));
  assert(!left.some((line) => line.includes('goes')));
});

void test('a mirror loses its log, or all of itself', async () => {
  const make = [`${MIRROR} -m1 -l4 --mirrorlog disk -n logged vg P1 P2 P3:0-50`, 'lvcreate -an -Zn -l3 -n goes vg P3'];
  await both(make, 3, '--force');
});

void test('RAIDs keep what is left of them', async () => {
  const make = [
    'lvcreate -an -Zn --type raid1 -m1 -l4 -n mirrored vg P0 P1',
    'lvcreate -an -Zn --type raid5 -i2 -l4 -n parity vg P0 P1 P2',
    'lvcreate -an -Zn --type raid0 -i2 -l4 -n plain vg P1 P3',
    'lvcreate -an -Zn --type raid10 -i2 -m1 -l4 -n ten vg P0 P1 P2 P3',
  ];
  const left = await both(make, 1, '--force');
  assert(left.some((line) => /mirrored_rimage_1.* error/.test(line)));
});

void test('only mirrors, or nothing, is touched when that is wanted', async () => {
  const make = [`${MIRROR} -m1 -l4 --mirrorlog core -n two vg P0 P1`, 'lvcreate -an -Zn -l3 -n lin vg P1'];
  const mirrorsOnly = await both(make, 1, '--force', '--mirrorsonly');
  assert(mirrorsOnly.some((line) => line.startsWith('vg/lin')));
  await both(make, 1);
});
