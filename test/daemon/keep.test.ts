/** What goes on being served when a later scan finds copies, damage, or devices that can't be read; and what does not. */
import assert from 'node:assert/strict';
import { mkdtemp, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { DeviceError, type DeviceErrorCode } from '../../src/block/errors.ts';
import { openBlockDevice } from '../../src/block/open.ts';
import { type Inventory, takeInventory } from '../../src/daemon/inventory.ts';
import { scanDevices } from '../../src/lvm/scan.ts';
import { changed, imagesOf, linear, MDA_START, TEXT_START, vgText, writeImages } from '../lvm/images.ts';
import type { Image } from '../lvm/images.ts';

const SETTINGS = { readOnly: false, systemId: null, extraSystemIds: [], activationList: null };
const LVS = [
  { name: 'one', segments: [linear(0, 4, 'pv0', 0)] },
  { name: 'two', segments: [linear(0, 4, 'pv1', 0)] },
];
const TEXT = vgText(LVS);
const NEWER = TEXT.replace('seqno = 3', 'seqno = 4');

let folder = '';
let images: readonly Image[] = [];
let paths: readonly string[] = [];
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'orion-lvm-keep-'));
  images = imagesOf(TEXT, folder);
  paths = images.map(({ path }) => path);
});
after(async () => {
  await rm(folder, { recursive: true, force: true });
});

interface Rescan {
  readonly paths?: readonly string[];
  /** By path: devices that can't be opened. */
  readonly failing?: ReadonlyMap<string, DeviceErrorCode>;
}

/** What is to be served after `before` was served in full. */
async function rescan(served: Inventory | null, options: Rescan = {}): Promise<Inventory> {
  const unreadable = new Map<string, string>();
  const held = new Set(served?.devices.map(({ identity }) => identity));
  const scan = await scanDevices(options.paths ?? paths, {
    async open(path) {
      const code = options.failing?.get(path);
      if (code !== undefined) throw new DeviceError(code, path, 'told so by the test');
      return openBlockDevice(path, { readOnly: true });
    },
    inUse: ({ identity }) => held.has(identity),
    onUnreadable: (path, reason, identity) => unreadable.set(identity ?? path, reason),
  });
  const exports = new Map(served?.volumes.flatMap(({ id, plan }) => (plan.active ? [[id, plan] as const] : [])));
  const groups = served?.groups ?? new Map<string, never>();
  return takeInventory(scan, SETTINGS, undefined, {
    groups,
    unreadable,
    served: (id) => exports.get(id) ?? null,
    mergeWaits: () => false,
  });
}

/** By export: "active", its problem, or why it is not served. */
function outcomes(inventory: Inventory): Record<string, string> {
  return Object.fromEntries(
    inventory.volumes.map(({ name, plan }) => [
      name,
      plan.active ? (plan.problem === undefined ? 'active' : `served on: ${plan.problem}`) : plan.reason,
    ]),
  );
}

function keys(inventory: Inventory): readonly string[] {
  return inventory.volumes.flatMap(({ plan }) => (plan.active ? plan.key : []));
}

async function write(...changes: readonly Image[]): Promise<void> {
  await writeImages([...images, ...changes]);
}

function withBytes(image: Image | undefined, at: number, bytes: string): Image {
  assert(image !== undefined);
  const head = Buffer.from(image.head);
  head.write(bytes, at, 'latin1');
  return changed(image, { head });
}

describe('what is served goes on', () => {
  const BOTH = { 'vg1/one': 'active', 'vg1/two': 'active' };

  test('when a copy of a physical volume appears, wherever it is listed', async () => {
    const copy = changed(images[0] as Image, { path: join(folder, 'a-copy') });
    await write(copy);
    const first = await rescan(null);
    assert.deepEqual(outcomes(first), BOTH);
    const withCopy = [copy.path, ...paths];
    const again = await rescan(first, { paths: withCopy });
    for (const outcome of Object.values(outcomes(again))) {
      assert.match(outcome, /^served on: PV PvPvPv-\S+ is on \S+\/pv0, which is in use, and also on \S+\/a-copy$/);
    }
    assert.deepEqual(keys(again), keys(first));
    assert.deepEqual(again.devices, first.devices);
    assert.match(
      again.scan.warnings.map(({ message }) => message).join('\n'),
      /prefers device \S+\/pv0 because .* used/,
    );
    assert.deepEqual(outcomes(await rescan(again, { paths: withCopy })), outcomes(again), 'and the scan after');
    assert.deepEqual(outcomes(await rescan(again)), BOTH, 'and when the copy is gone');
    const fresh = Object.values(outcomes(await rescan(null, { paths: withCopy })));
    for (const reason of fresh) assert.match(reason, /^Cannot activate LVs in VG vg1 while PVs appear on duplicate/);
  });

  test("when a device can't be read; not when it is gone", async () => {
    await write();
    const first = await rescan(null);
    const [path = ''] = paths;
    let last = first;
    for (let round = 0; round < 2; round++) {
      last = await rescan(last, { failing: new Map([[path, 'FAILED']]) });
      assert.match(outcomes(last)['vg1/one'] ?? '', /^served on: physical volume .* is missing$/);
      assert.equal(outcomes(last)['vg1/two'], 'active');
      assert.deepEqual([keys(last), last.devices], [keys(first), first.devices]);
    }
    const every = await rescan(last, { failing: new Map(paths.map((each) => [each, 'FAILED'])) });
    assert.match(outcomes(every)['vg1/two'] ?? '', /^served on: the metadata of vg1 can't be read: .*told so/);
    assert.deepEqual(keys(every), keys(first));
    assert.deepEqual(outcomes(await rescan(every)), BOTH, 'and it is as before when it can be read again');
    const gone = outcomes(await rescan(first, { failing: new Map([[path, 'NOT_FOUND']]) }));
    assert.match(gone['vg1/one'] ?? '', /^physical volume .* is missing$/);
    assert.equal(gone['vg1/two'], 'active');
    assert.deepEqual(outcomes(await rescan(first, { paths: [] })), {});
  });

  test('when a label or every copy of the metadata is damaged', async () => {
    await write();
    const first = await rescan(null);
    await write(withBytes(images[0], 512, 'NO LABEL'));
    assert.match(outcomes(await rescan(first))['vg1/one'] ?? '', /^served on: physical volume .* is missing$/);
    for (const [at, what] of [
      [MDA_START, /wrong checksum/],
      [TEXT_START + 30, /checksum/i],
    ] as const) {
      await write(withBytes(images[0], at, 'XX'), withBytes(images[1], at, 'XX'));
      const damaged = await rescan(first);
      for (const outcome of Object.values(outcomes(damaged))) {
        assert.match(outcome, /^served on: the metadata of vg1 can't be read: /);
        assert.match(outcome, what);
      }
      assert.deepEqual([keys(damaged), damaged.devices], [keys(first), first.devices]);
    }
    assert.deepEqual(outcomes(await rescan(null)), {});
  });

  test('when only older metadata can be read', async () => {
    const grown = vgText([{ name: 'one', segments: [linear(0, 5, 'pv0', 0)] }, LVS[1] as (typeof LVS)[0]]);
    const [newer] = imagesOf(grown.replace('seqno = 3', 'seqno = 4'), folder);
    assert(newer !== undefined);
    await write(newer);
    const first = await rescan(null);
    await write(withBytes(newer, TEXT_START + 30, 'XX'));
    const older = await rescan(first);
    assert.match(outcomes(older)['vg1/one'] ?? '', /^served on: only metadata of seqno 3 instead of 4 can be read: /);
    assert.deepEqual(keys(older), keys(first));
    await write();
    const restored = await rescan(older);
    assert.deepEqual(outcomes(restored), BOTH);
    assert.notDeepEqual(keys(restored), keys(first), 'sound older metadata was put there on purpose');
  });

  test('when another group has its name', async () => {
    const id = 'VgVgVg-VgVg-VgVg-VgVg-VgVg-VgVg-VgVgV2';
    const other = TEXT.replaceAll('VgVgVg-VgVg-VgVg-VgVg-VgVg-VgVg-VgVgVg', id).replaceAll('PvPvPv', 'PvPvP2');
    const twins = imagesOf(other.replaceAll('LvLvLv', 'LvLvL2'), folder).map((image) =>
      changed(image, { path: `${image.path}-twin` }),
    );
    await write(...twins);
    const first = await rescan(null);
    const again = await rescan(first, { paths: [...twins.map(({ path }) => path), ...paths] });
    for (const outcome of Object.values(outcomes(again))) assert.match(outcome, /^served on: two volume groups have/);
    assert.deepEqual(keys(again), keys(first));
  });
});

describe('what the metadata changed does not go on as it was', () => {
  test('a changed table, a removed volume, an exported group: with a duplicate there', async () => {
    await write();
    const first = await rescan(null);
    const copy = changed(images[1] as Image, { path: join(folder, 'z-copy') });
    const texts = {
      table: vgText([{ name: 'one', segments: [linear(0, 5, 'pv0', 0)] }, LVS[1] as (typeof LVS)[0]]),
      removed: vgText([LVS[0] as (typeof LVS)[0]]),
      exported: vgText(LVS, { vg: 'status = ["RESIZEABLE", "READ", "WRITE", "EXPORTED"]\nflags = []' }),
    };
    const after_ = async (text: string): Promise<Record<string, string>> => {
      const newest = imagesOf(text.replace('seqno = 3', 'seqno = 4'), folder);
      await write(copy, ...newest);
      return outcomes(await rescan(first, { paths: [...paths, copy.path] }));
    };
    const table = await after_(texts.table);
    assert.match(table['vg1/one'] ?? '', /^Cannot activate LVs/);
    assert.match(table['vg1/two'] ?? '', /^served on: /);
    const removed = await after_(texts.removed);
    assert.deepEqual(Object.keys(removed), ['vg1/one']);
    for (const reason of Object.values(await after_(texts.exported))) assert.match(reason, /exported/);
  });

  test('newer metadata counts though a device can no longer be read', async () => {
    await write(...imagesOf(TEXT, folder));
    const first = await rescan(null);
    await write(...imagesOf(NEWER.replace('"pv0", 0', '"pv0", 8'), folder).slice(1));
    const { 'vg1/one': one, 'vg1/two': two } = outcomes(
      await rescan(first, { failing: new Map([[paths[0] ?? '', 'FAILED']]) }),
    );
    assert.match(one ?? '', /^physical volume .* is missing$/);
    assert.equal(two, 'active');
  });

  test('not what is on a device that is gone, though other metadata is damaged, or something unreadable is in its place', async () => {
    await write();
    const first = await rescan(null);
    const [path = ''] = paths;
    await write(withBytes(images[1], MDA_START, 'XX'));
    await rename(path, `${path}.away`);
    try {
      const cut = images[0]?.head.subarray(0, 4096) ?? '';
      for (const other of [null, cut]) {
        if (other !== null) await writeFile(path, other);
        const damaged = outcomes(await rescan(first));
        assert.match(damaged['vg1/one'] ?? '', /^the metadata of vg1 can't be read: /);
        assert.match(damaged['vg1/two'] ?? '', /^served on: the metadata of vg1 can't be read: /);
      }
      await write(...images.slice(1));
      await writeFile(path, cut);
      const replaced = outcomes(await rescan(first));
      assert.match(replaced['vg1/one'] ?? '', /^device \S+\/pv0 has 4096 bytes/);
      assert.equal(replaced['vg1/two'], 'active');
    } finally {
      await rename(`${path}.away`, path);
    }
  });

  test('an emptied image is told', async () => {
    await write();
    const first = await rescan(null);
    await truncate(paths[0] ?? '', 0);
    const again = await rescan(first);
    assert.match(again.scan.warnings.map(({ message }) => message).join('\n'), /pv0 is empty \(size 0\)/);
    assert.equal(outcomes(again)['vg1/two'], 'active');
  });
});
