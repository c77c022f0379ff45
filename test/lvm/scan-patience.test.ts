/** A scan does not wait for a device that hangs, nor asks it again before its last reading has come to its end. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { openBlockDevice } from '../../src/block/open.ts';
import { scanDevices, type ScanPatience } from '../../src/lvm/scan.ts';
import { imagesOf, linear, vgText, writeImages } from './images.ts';

test('a device that hangs is unreadable until it answers; the others are scanned', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'orion-lvm-patience-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const images = imagesOf(vgText([{ name: 'one', segments: [linear(0, 4, 'pv0', 0)] }]), folder);
  await writeImages(images);
  const paths = images.map(({ path }) => path);
  const [hung = ''] = paths;
  const released = Promise.withResolvers<void>();
  const patience: ScanPatience = { timeoutMs: 50, hanging: new Map() };
  let opened = 0;
  const scan = async (): Promise<{ readonly missing: boolean[]; readonly unreadable: readonly string[] }> => {
    const unreadable: string[] = [];
    const { volumeGroups } = await scanDevices(paths, {
      async open(path) {
        if (path === hung) {
          opened++;
          await released.promise;
        }
        return openBlockDevice(path, { readOnly: true });
      },
      patience,
      onUnreadable: (path, reason) => unreadable.push(`${path} ${reason}`),
    });
    return { missing: volumeGroups.flatMap(({ pvs }) => pvs.map((pv) => pv.missing)), unreadable };
  };
  const without = { missing: [true, false], unreadable: [`${hung} ${hung} does not answer`] };
  assert.deepEqual(await scan(), without);
  assert.deepEqual(await scan(), without);
  assert.equal(opened, 1, 'it is not asked again while it hangs');
  const [ending] = patience.hanging.values();
  released.resolve();
  await ending;
  assert.deepEqual(await scan(), { missing: [false, false], unreadable: [] });
  assert.equal(patience.hanging.size, 0);
});
