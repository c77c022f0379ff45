/**
 * A sample of what power cuts leave, judged by the real LVM2 on loop devices: it sees what we see, without a missing PV, and its
 * next change succeeds and is ours to read. Needs root and lvm2 (test/setup).
 */
import assert from 'node:assert/strict';
import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { type CrashState, crashStates } from '../../src/block/power-cut.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { type Lvm2, withLvm2 } from '../lvm/lvm2.ts';
import { CASES, PATHS } from './cases.ts';
import { DISK_BYTES, Machine } from './machine.ts';

const STATES = Number(process.env['ORION_CRASH_LVM2_STATES'] ?? '3');
const SEED = Number(process.env['ORION_CRASH_SEED'] ?? String(Date.now() % 1_000_000));
const NAMES = new Set([
  'vgcreate',
  'vgextend by a new PV with two areas',
  'vgreduce',
  'vgremove',
  'the copy moves from one PV to another',
  'a text that wraps',
]);
/** Our disks are smaller than what LVM2 looks at by default. */
const CONFIG = ['--config', 'devices { pv_min_size = 512 }'];

/** `count` states spread over the whole cut. */
function spread(states: readonly CrashState[], count: number): readonly CrashState[] {
  return Array.from({ length: count }, (_, index) => states[Math.floor(((index + 0.5) / count) * states.length)]!);
}

async function judge(state: CrashState, lvm: Lvm2): Promise<void> {
  const images = new Map([...state.images].map(([device, image]) => [device.name, image]));
  const ours = new Machine(images);
  const { volumeGroups } = await ours.scan();
  for (const [index, path] of PATHS.entries()) await writeDevice(lvm.devices[index]!, images.get(path)!);
  const rows = await lvm.report('vgs', '-o', 'vg_name,vg_seqno,pv_count,vg_missing_pv_count,vg_tags', ...CONFIG);
  const expected = volumeGroups.map(({ vg }) => ({
    vg_name: vg.name,
    vg_seqno: String(vg.seqno),
    pv_count: String(vg.physicalVolumes.length),
    vg_missing_pv_count: '0',
    vg_tags: vg.tags.toSorted().join(','),
  }));
  assert.deepEqual(rows, expected, 'vgs');
  const [group] = volumeGroups;
  if (group === undefined) return;
  const check = await lvm.run('vgck', group.vg.name, ...CONFIG);
  assert.equal(check.status, 0, `vgck: ${check.stderr}`);
  const change = await lvm.run('vgchange', '--addtag', 'lvm2', group.vg.name, ...CONFIG);
  assert.equal(change.status, 0, `vgchange: ${change.stderr}`);
  const after = new Machine(
    new Map(await Promise.all(PATHS.map((path, index) => readDevice(path, lvm.devices[index]!)))),
  );
  const changed = await after.group();
  assert.equal(changed?.vg.seqno, group.vg.seqno + 1);
  assert(changed.vg.tags.includes('lvm2'));
}

async function writeDevice(device: string, image: Buffer): Promise<void> {
  const file = await open(device, 'r+');
  try {
    await file.write(image, 0, image.length, 0);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function readDevice(path: string, device: string): Promise<readonly [string, Buffer]> {
  const file = await open(device, 'r');
  try {
    const image = Buffer.alloc(DISK_BYTES);
    await file.read(image, 0, DISK_BYTES, 0);
    return [path, image];
  } finally {
    await file.close();
  }
}

void describe(`LVM2 after power cuts, seed ${SEED}`, () => {
  void test('it sees what we see and goes on', async () => {
    await withTemporaryFolder(async (folder) => {
      const files = PATHS.map((_, index) => join(folder, `disk${index}`));
      for (const file of files) await writeFile(file, Buffer.alloc(DISK_BYTES));
      await withLvm2(files, async (lvm) => {
        for (const item of CASES.filter(({ name }) => NAMES.has(name))) {
          const first = Machine.empty(PATHS.length);
          await item.prepare(first);
          const machine = new Machine(first.images());
          await item.cut(machine);
          const states = [...crashStates(machine.journal, { statesPerMoment: 8, seed: SEED })];
          for (const state of spread(states, STATES)) {
            try {
              await judge(state, lvm);
            } catch (error) {
              throw new Error(`${item.name}: ${state.description}`, { cause: error });
            }
          }
        }
      });
    });
  });
});
