/** COW snapshots and their origins: their tables, and what Linux's own volumes then hold when they are read and written. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import type { BlockDevice } from '../../src/block/device.ts';
import { openBlockDevice } from '../../src/block/open.ts';
import { Op } from '../../src/block/request.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { PLAIN_HOST } from '../../src/lvm/access.ts';
import { type ActiveLv, activationPlan, type LvActivation } from '../../src/lvm/activate.ts';
import { withoutLostSnapshots } from '../../src/lvm/activate-snapshots.ts';
import { scanDevices } from '../../src/lvm/scan.ts';
import type { VolumeGroup } from '../../src/lvm/model.ts';
import { pattern, performOk, readAt } from '../block/harness.ts';
import { unpackGolden, withTemporaryFolder } from '../helpers/shared.ts';
import { diskTexts } from '../ondisk/samples.ts';
import { groupOf } from './images.ts';

const OPTIONS = { host: PLAIN_HOST };

function active(plan: readonly LvActivation[], name: string): ActiveLv {
  const found = plan.find(({ lv }) => lv.name === name);
  assert(found?.active === true, `${name}: ${found?.active === false ? found.reason : 'no entry'}`);
  return found;
}

async function sample(name: string): Promise<VolumeGroup> {
  const text = diskTexts().find((candidate) => candidate.name === `${name}.raw`)?.text;
  assert(text !== undefined, name);
  return groupOf(text);
}

/** A plan's volumes, live. */
class Served {
  readonly volumes = new Map<string, Volume>();
  readonly #devices = new Map<string, BlockDevice>();

  static async start(plan: readonly LvActivation[]): Promise<Served> {
    const served = new Served();
    for (const entry of plan) {
      if (!entry.active) continue;
      for (const path of entry.devices) {
        if (!served.#devices.has(path)) served.#devices.set(path, await openBlockDevice(path));
      }
      const volume = new Volume(entry.exportName, { targets });
      volume.load(entry.table, (path) => served.#devices.get(path)!, { readOnly: entry.readOnly });
      served.volumes.set(entry.lv.name, volume);
    }
    for (const volume of served.volumes.values()) volume.resume();
    return served;
  }

  async hashes(): Promise<Record<string, string>> {
    const hashes: Record<string, string> = {};
    for (const [name, volume] of this.volumes) {
      const hash = createHash('sha256');
      const { sizeBytes } = volume.limits;
      for (let at = 0; at < sizeBytes; at += 1 << 20)
        hash.update(await readAt(volume, at, Math.min(1 << 20, sizeBytes - at)));
      hashes[name] = hash.digest('hex');
    }
    return hashes;
  }

  async stop(): Promise<void> {
    for (const volume of this.volumes.values()) await volume.close();
    for (const device of this.#devices.values()) await device.close();
  }
}

async function groupIn(images: readonly string[]): Promise<VolumeGroup> {
  const [group] = (await scanDevices(images)).volumeGroups;
  assert(group !== undefined);
  return group;
}

describe('golden snap', () => {
  test('has the hashes that the kernel read', async () => {
    await withTemporaryFolder(async (folder) => {
      const golden = await unpackGolden('snap', folder);
      const plan = activationPlan(await groupIn(golden.images), OPTIONS);
      const served = await Served.start(plan);
      const expected = Object.fromEntries(golden.volumes.map(({ name, sha256 }) => [name, sha256]));
      assert.deepEqual(await served.hashes(), expected);
      assert(plan.every((entry) => entry.active && !entry.readOnly));
      await served.stop();
    });
  });

  test('keeps its snapshots while its origin and they are written, over restarts', async () => {
    await withTemporaryFolder(async (folder) => {
      const golden = await unpackGolden('snap', folder);
      const group = await groupIn(golden.images);
      const models = new Map<string, Buffer>();
      const MIB = 1 << 20;
      for (let round = 0; round < 3; round++) {
        const served = await Served.start(activationPlan(group, OPTIONS));
        for (const [name, volume] of served.volumes) {
          const content = await readAt(volume, 0, 32 * MIB);
          if (round > 0) assert(content.equals(models.get(name)!), `${name}, round ${round}`);
          models.set(name, content);
        }
        for (let i = 0; i < 60; i++) {
          for (const [name, volume] of served.volumes) {
            const length = 1 + ((i * 7919 + round * 31) % 30_000);
            const offset = (i * 2_654_435_761 + round * 977 + name.length) % (32 * MIB - length);
            const buffer = pattern(length, i + round * 100);
            buffer.copy(models.get(name)!, offset);
            await performOk(volume, { op: Op.write, offset, buffer });
          }
        }
        await served.stop();
      }
      const served = await Served.start(activationPlan(group, OPTIONS));
      for (const [name, volume] of served.volumes)
        assert((await readAt(volume, 0, 32 * MIB)).equals(models.get(name)!), name);
      await served.stop();
    });
  });
});

describe('tables', () => {
  test('of an origin and its snapshots', async () => {
    const plan = activationPlan(await sample('05-snapshot'), OPTIONS);
    const origin = active(plan, 'org');
    assert.equal(origin.readOnly, false);
    const { exportName } = plan.find(({ lv }) => lv.name === 'org')!;
    const inGroup = (name: string): string => exportName.replace(/org$/, name);
    assert.deepEqual(origin.needs, [inGroup('snap1'), inGroup('snap2')]);
    const [line] = origin.table;
    assert.equal(line?.target, 'snapshot-origin');
    const snapshot = active(plan, 'snap1');
    assert.equal(snapshot.table[0]?.target, 'snapshot');
    assert.equal(snapshot.shareKey, origin.shareKey);
    assert.notEqual(snapshot.shareKey, undefined);
    const { originId, snapshots } = line.params as { originId: string; snapshots: readonly string[] };
    const params = snapshot.table[0].params as { originId: string; cowId: string; persistent: string };
    assert.equal(params.originId, originId);
    assert(snapshots.includes(params.cowId));
    assert.equal(params.persistent, 'P');
  });

  test('of a sparse volume: its origin is zeros and not visible', async () => {
    const plan = activationPlan(await sample('05-snapshot'), OPTIONS);
    const sparse = active(plan, 'sparse');
    const { origin } = sparse.table[0]!.params as { origin: { name: string; table: readonly { target: string }[] } };
    assert.deepEqual(
      origin.table.map(({ target }) => target),
      ['zero'],
    );
    assert(plan.every(({ lv }) => lv.name !== 'sparse_vorigin'));
    assert.equal(plan.find(({ lv }) => lv.name === 'sparse')?.follows, undefined);
  });

  test('of an origin that takes a snapshot in', async () => {
    const plan = activationPlan(await sample('05b-snapshot-merging'), OPTIONS);
    const origin = active(plan, 'org');
    assert.equal(origin.table[0]?.target, 'snapshot-merge');
    assert(
      plan.every(({ lv }) => lv.name !== 'snap2'),
      'what is merging is no volume of its own',
    );
  });

  test('an origin is read-only when one of its snapshots is not active', async () => {
    const plan = activationPlan(await sample('05-snapshot'), OPTIONS).map((entry): LvActivation => {
      if (entry.lv.name !== 'snap1') return entry;
      return { lv: entry.lv, exportName: entry.exportName, active: false, reason: 'its device is away' };
    });
    const origin = active(withoutLostSnapshots(plan), 'org');
    assert.equal(origin.readOnly, true);
    assert.match(
      origin.note ?? '',
      /^read-only: its snapshot \S+\/snap1 would miss what is written: its device is away$/,
    );
    assert.equal(active(withoutLostSnapshots(plan), 'snap2').readOnly, false);
  });
});
