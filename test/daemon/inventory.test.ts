/** What ought to be served of a scan: activation lists, shared names, devices that others hold, and what must be held. */
import assert from 'node:assert/strict';
import { mkdtemp, rename, rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { DeviceError } from '../../src/block/errors.ts';
import { openBlockDevice } from '../../src/block/open.ts';
import { ensureDemo } from '../../src/daemon/demo-volume-group.ts';
import { DeviceSet } from '../../src/daemon/devices.ts';
import { type Inventory, takeInventory } from '../../src/daemon/inventory.ts';
import type { Scan, VolumeGroup } from '../../src/lvm/model.ts';
import { scanDevices } from '../../src/lvm/scan.ts';
import { newUuid } from '../../src/ondisk/uuid.ts';
import { TestGroup } from './images.ts';

const SETTINGS = { readOnly: false, systemId: null, extraSystemIds: [], activationList: null };

let folder = '';
let images: readonly string[] = [];
let scan: Scan;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'orion-lvm-inventory-'));
  ({ images } = await ensureDemo(join(folder, 'demo')));
  const other = await new TestGroup(join(folder, 'other.img'), 'other').write([{ name: 'lv', extent: 0, extents: 2 }]);
  scan = await scanDevices([...images, other.path]);
});
after(async () => {
  await rm(folder, { recursive: true, force: true });
});

/** Export names with "active" or the reason why not. */
function outcomes(inventory: Inventory): Record<string, string> {
  return Object.fromEntries(inventory.volumes.map(({ name, plan }) => [name, plan.active ? 'active' : plan.reason]));
}

function failures(code: 'IN_USE' | 'NO_ACCESS', path: string): ReadonlyMap<string, DeviceError> {
  return new Map([[path, new DeviceError(code, path, 'told so by the test')]]);
}

describe('inventory', () => {
  test('every volume, and every physical volume of its group', () => {
    const inventory = takeInventory(scan, SETTINGS);
    assert.deepEqual(outcomes(inventory), {
      'demo/notes': 'active',
      'demo/data': 'active',
      'demo/big': 'active',
      'demo/stripes': 'active',
      'other/lv': 'active',
    });
    assert.deepEqual(
      inventory.devices.map(({ path }) => path),
      [...images, join(folder, 'other.img')],
    );
  });

  test('of two groups of one name the one that is of this host is served', () => {
    const own = scan.volumeGroups.find(({ vg }) => vg.name === 'other');
    assert.ok(own !== undefined);
    const twin = { ...own, vg: { ...own.vg, id: newUuid() } };
    const both = (other: VolumeGroup): Inventory => takeInventory({ ...scan, volumeGroups: [own, other] }, SETTINGS);
    const shared = both(twin).volumes.map(({ plan }) => plan.active);
    assert.deepEqual(shared, [false, false]);
    const foreign = both({ ...twin, vg: { ...twin.vg, systemId: 'elsewhere' } });
    assert.deepEqual(
      foreign.volumes.map(({ id, plan }) => [id.startsWith(own.vg.id), plan.active]),
      [
        [true, true],
        [false, false],
      ],
    );
  });

  test('a command decides by what it knows of the host, and about what is missing', async () => {
    const system = scan.volumeGroups.map((group) => ({ ...group, vg: { ...group.vg, systemId: 'by lvm.conf' } }));
    const found = { ...scan, volumeGroups: system };
    const ids = takeInventory(found, SETTINGS).volumes.map(({ id }) => id);
    const decided = new Map(ids.map((id) => [id, true] as const));
    for (const { plan } of takeInventory(found, SETTINGS).volumes) assert.equal(plan.active, false);
    for (const { plan } of takeInventory(found, SETTINGS, undefined, undefined, decided).volumes) {
      assert.equal(plan.active, true);
    }
    const partial = await scanDevices(images.slice(1));
    const withPart = (decision: true | 'partial'): Record<string, string> => {
      const decisions = new Map(ids.map((id) => [id, decision] as const));
      return outcomes(takeInventory(partial, SETTINGS, undefined, undefined, decisions));
    };
    assert.match(withPart(true)['demo/stripes'] ?? '', /is missing/);
    for (const outcome of Object.values(withPart('partial'))) assert.equal(outcome, 'active');
  });

  test('a group of which nothing is served is not held', () => {
    const inventory = takeInventory(scan, { ...SETTINGS, activationList: ['other'] });
    assert.equal(outcomes(inventory)['demo/data'], 'not in activation.auto_activation_volume_list');
    assert.equal(outcomes(inventory)['other/lv'], 'active');
    assert.deepEqual(
      inventory.devices.map(({ path }) => path),
      [join(folder, 'other.img')],
    );
  });

  test('a device that another program holds takes its whole group', () => {
    const inventory = takeInventory(scan, SETTINGS, failures('IN_USE', images[2] ?? ''));
    const { 'other/lv': other, ...demo } = outcomes(inventory);
    assert.equal(other, 'active');
    for (const reason of Object.values(demo)) assert.match(reason, /demo-pv2.img: told so by the test/);
    assert.equal(inventory.devices.length, 1, 'and the others of the group are let go');
  });

  test('a device that fails takes only what is on it', () => {
    const inventory = takeInventory(scan, SETTINGS, failures('NO_ACCESS', images[1] ?? ''));
    const { 'demo/data': data, 'demo/big': big, 'demo/stripes': stripes } = outcomes(inventory);
    assert.equal(data, 'active');
    assert.match(big ?? '', /demo-pv1.img: told so/);
    assert.match(stripes ?? '', /demo-pv1.img: told so/);
  });

  test('a table read again is the same, and another file behind the path is another device', async () => {
    const path = join(folder, 'swapped.img');
    const volumes = [{ name: 'lv', extent: 0, extents: 2 }];
    const key = async (): Promise<string> => {
      const plan = takeInventory(await scanDevices([path]), SETTINGS).volumes[0]?.plan;
      return plan?.active === true ? plan.key : '';
    };
    await new TestGroup(path, 'swapped').write(volumes);
    const first = await key();
    assert.equal(await key(), first);
    // The daemon holds the old file open; so that its inode number is not used again, it must stay here too.
    await rename(path, join(folder, 'swapped-out'));
    await new TestGroup(path, 'swapped').write(volumes);
    assert.notEqual(await key(), first);
  });
});

describe('device set', () => {
  test('opens a device once, says what failed, and lets go of what is not needed', async (t) => {
    const set = new DeviceSet({ readOnly: false });
    t.after(() => set.close());
    const outcome = await set.hold(scan.devices);
    assert.equal(outcome.opened, 4);
    assert.equal((await set.hold(scan.devices)).opened, 0);
    const rival = new DeviceSet({ readOnly: false });
    t.after(() => rival.close());
    const refused = await rival.hold(scan.devices);
    assert.deepEqual([refused.opened, refused.failures.size], [0, 4]);
    assert.equal(refused.failures.get(images[0] ?? '')?.code, 'IN_USE');
    assert.deepEqual(
      rival.status().map(({ state }) => state),
      ['failed', 'failed', 'failed', 'failed'],
    );
    await set.keepOnly(scan.devices.slice(0, 1));
    assert.equal((await rival.hold(scan.devices)).opened, 3);
    assert.equal(set.find(images[0] ?? '')?.path, images[0]);
    assert.equal(set.find(images[1] ?? ''), undefined);
  });

  test('a device that took the place of the scanned one is known as what it is', async (t) => {
    const [now] = scan.devices;
    assert(now !== undefined);
    const set = new DeviceSet({ readOnly: false });
    t.after(() => set.close());
    assert.equal((await set.hold([{ ...now, identity: 'file:0:0' }])).opened, 1);
    assert.equal(set.find(now.path), undefined);
    const again = await set.hold([now]);
    assert.deepEqual([again.opened, again.failures.size], [0, 0]);
    assert.equal(set.find(now.path)?.path, now.path);
  });

  test('a device that does not answer is given up after a while, asked no more, and closed when it is too late', async (t) => {
    const [slow, other] = scan.devices;
    assert(slow !== undefined && other !== undefined);
    const answered = Promise.withResolvers<void>();
    const closed = Promise.withResolvers<void>();
    let asked = 0;
    const set = new DeviceSet({
      readOnly: false,
      timeoutMs: 20,
      async open(path, options) {
        const device = await openBlockDevice(path, options);
        if (path !== slow.path || ++asked > 1) return device;
        await answered.promise;
        const close = device.close.bind(device);
        device.close = () => close().finally(closed.resolve);
        return device;
      },
    });
    t.after(() => set.close());
    for (let look = 0; look < 2; look++) {
      const { failures } = await set.hold([slow, other]);
      assert.deepEqual([...failures.keys()], [slow.path]);
      assert.match(failures.get(slow.path)?.message ?? '', /does not answer/);
      assert.equal(set.find(other.path)?.path, other.path);
    }
    assert.equal(asked, 1);
    answered.resolve();
    await closed.promise;
    while ((await set.hold([slow, other])).failures.size > 0);
    assert.equal(asked, 2);
  });

  test('a device that was enlarged while it was held has its new size, one that was cut keeps the old', async (t) => {
    const path = join(folder, 'growing.img');
    await new TestGroup(path, 'growing').write([{ name: 'lv', extent: 0, extents: 2 }]);
    const set = new DeviceSet({ readOnly: false });
    t.after(() => set.close());
    const sizeAfter = async (bytes: number): Promise<number | undefined> => {
      await truncate(path, bytes);
      await set.hold((await scanDevices([path])).devices);
      return set.find(path)?.sizeBytes;
    };
    assert.equal(await sizeAfter(2 ** 26), 2 ** 26);
    assert.equal(await sizeAfter(2 ** 27), 2 ** 27);
    assert.equal(await sizeAfter(2 ** 25), 2 ** 27);
  });
});
