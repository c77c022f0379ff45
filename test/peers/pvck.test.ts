/**
 * pvck against LVM2 2.03.16 on a golden PV, sound and with one field after another damaged: every dump mode, stdout and exit code;
 * and the files that --file writes.
 */
import assert from 'node:assert/strict';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { runProgram } from '../helpers/run.ts';
import { unpackGolden, withTemporaryFolder } from '../helpers/shared.ts';
import { writeImages } from '../lvm/images.ts';
import { PV_FIXTURES, pvBytes } from '../ondisk/samples.ts';
import { type Judge, ours, withJudge } from './reports.ts';

const MODES = ['headers', 'metadata', 'metadata_all', 'metadata_search'];

async function everyMode(judge: Judge, device: string): Promise<void> {
  for (const mode of MODES) await judge.sameAlone(['pvck', '--dump', mode, device]);
  await judge.sameAlone(['pvck', device]);
}

/** Byte offsets on a PV with its label in sector 1 and its first metadata area at 4096. */
const FIELDS = {
  'label id': 512,
  'label sector': 520,
  'label crc': 528,
  'label offset': 532,
  'label type': 536,
  'PV uuid': 544,
  'data area offset': 584,
  'data area list end': 600,
  'metadata area offset': 616,
  'metadata area size': 624,
  'metadata area list end': 632,
  'extension version': 648,
  'extension flags': 652,
  'bootloader area': 656,
  'area header crc': 4096,
  'area magic': 4100,
  'area version': 4116,
  'area start': 4120,
  'area size': 4128,
  'text offset': 4136,
  'text offset by 256': 4137,
  'text size': 4144,
  'text crc': 4152,
  'text flags': 4156,
  'precommit offset': 4160,
  'precommit size': 4168,
} as const;

const ZEROED = { label: [512, 512], 'area header': [4096, 512], slots: [4136, 48], texts: [4608, 64 * 1024] } as const;

/** Runs `use` with bytes of a device replaced; LVM2 must find nothing of the change in any cache. */
async function withBytes(path: string, at: number, bytes: Buffer, use: () => Promise<void>): Promise<void> {
  const device = await open(path, 'r+');
  try {
    const kept = Buffer.alloc(bytes.length);
    await device.read(kept, 0, kept.length, at);
    await device.write(bytes, 0, bytes.length, at);
    await device.sync();
    await use();
    await device.write(kept, 0, kept.length, at);
    await device.sync();
  } finally {
    await device.close();
  }
}

describe('pvck', { concurrency: 2 }, () => {
  test('sound PVs: golden, without text, wrapped text, unusual layouts', () =>
    withTemporaryFolder(async (folder) => {
      const golden = await unpackGolden('basic', folder);
      const fixtures = PV_FIXTURES.map((name, index) => ({
        path: join(folder, `fixture${index}`),
        head: pvBytes(name),
        sizeBytes: 256 * 1024 * 1024,
      }));
      await withJudge([...golden.images, ...(await writeImages(fixtures))], async (judge) => {
        for (const device of judge.devices) await everyMode(judge, device);
        await judge.sameAlone(['pvck', ...judge.devices.slice(0, 4)]);
        const last = judge.devices.at(-1) ?? '';
        await judge.sameAlone(['pvck', '--dump', 'metadata_all', '-v', last]);
        for (const sector of [1, 3])
          await judge.sameAlone(['pvck', '--labelsector', `${sector}`, '--dump', 'headers', last]);
        const place = 'mda_offset=4096 mda_size=65536';
        await judge.sameAlone(['pvck', '--dump', 'metadata_search', '--settings', place, last]);
      });
    }));

  for (const [title, damages] of Object.entries({
    'one damaged byte': Object.entries(FIELDS).map(([name, at]) => ({ name, at, zeros: 0 })),
    zeros: Object.entries(ZEROED).map(([name, [at, zeros]]) => ({ name, at, zeros })),
  })) {
    test(title, () =>
      withTemporaryFolder(async (folder) => {
        const { images } = await unpackGolden('basic', folder);
        await withJudge(images.slice(0, 1), async (judge) => {
          const [device = ''] = judge.devices;
          const image = await readFile(images[0] ?? '');
          for (const { name, at, zeros } of damages) {
            const bytes = zeros > 0 ? Buffer.alloc(zeros) : Buffer.of((image[at] ?? 0) ^ 1);
            await withBytes(device, at, bytes, () => everyMode(judge, device)).catch((error: unknown) => {
              throw new Error(`damage: ${name}`, { cause: error });
            });
          }
        });
      }),
    );
  }

  test('saves texts and areas as LVM2 does', () =>
    withTemporaryFolder(async (folder) => {
      const { images } = await unpackGolden('basic', folder);
      await withJudge(images.slice(0, 1), async ({ devices: [device = ''] }) => {
        for (const mode of ['metadata', 'metadata_all', 'metadata_search', 'metadata_area']) {
          const [theirs, own] = [join(folder, `${mode}.theirs`), join(folder, `${mode}.ours`)];
          await runProgram('lvm', ['pvck', '--dump', mode, '-f', theirs, device]);
          const { status, stderr } = await ours(['pvck', '--dump', mode, '-f', own, device]);
          assert.equal(status, 0, stderr);
          assert.deepEqual(await readFile(own), await readFile(theirs), mode);
        }
        const again = await ours(['pvck', '--dump', 'metadata', '-f', join(folder, 'metadata.ours'), device]);
        assert.equal(again.status, 5, 'a file that is there is not overwritten');
      });
    }));

  test('refuses what it cannot take', async () => {
    for (const argv of [
      ['pvck'],
      ['pvck', '--dump', 'nothing', '/dev/null'],
      ['pvck', '--dump', 'headers', '/a', '/b'],
    ]) {
      assert.equal((await ours(argv)).status, 3, argv.join(' '));
    }
    assert.equal((await ours(['pvck', '/dev/nosuch'])).status, 5);
    assert.equal((await ours(['pvck', '--dump', 'headers', '--settings', 'bogus=1', '/dev/nosuch'])).status, 5);
  });
});
