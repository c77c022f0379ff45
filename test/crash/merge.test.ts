/**
 * Power cuts at every write of a merge as commands carry it out: the commit that begins it, the merging, the commit that removes the
 * snapshot. Whatever the disks hold afterwards, the origin is what it was or what the snapshot was, its other snapshot is what it was,
 * and a merge that has begun can be gone on with.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { BlockDevice } from '../../src/block/device.ts';
import { crashStates } from '../../src/block/power-cut.ts';
import { flush, readBytes, writeBytes } from '../../src/block/sync-io.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { PLAIN_HOST } from '../../src/lvm/access.ts';
import { activationPlan } from '../../src/lvm/activate.ts';
import { mergesOf } from '../../src/lvm/deferred-merges.ts';
import { beginMerge, joinSnapshot } from '../../src/lvm/edit/lv-merge.ts';
import { carryOutMerge } from '../../src/lvm/merge/run.ts';
import type { VolumeGroup } from '../../src/lvm/model.ts';
import { linearLv, Machine, newPv, vgcreatePlan } from './machine.ts';

const STATES = Number(process.env['ORION_CRASH_STATES'] ?? '3');
const SEED = Number(process.env['ORION_CRASH_SEED'] ?? String(Date.now() % 1_000_000));
const CHUNK_BYTES = 4096;
const ORIGIN_CHUNKS = 24;

async function groupOf(machine: Machine): Promise<VolumeGroup> {
  const group = await machine.group();
  assert(group !== null);
  return group;
}

/** All volumes, as they would be served, for as long as `use` takes. */
async function serving<Result>(
  machine: Machine,
  use: (volumes: ReadonlyMap<string, Volume>) => Promise<Result>,
): Promise<Result> {
  const plan = activationPlan(await groupOf(machine), { host: PLAIN_HOST });
  const volumes = new Map<string, Volume>();
  for (const entry of plan) {
    assert(entry.active, `${entry.exportName} is not active`);
    const volume = new Volume(entry.exportName, { targets });
    volume.load(entry.table, (path): BlockDevice => machine.disks.get(path)!);
    volumes.set(entry.lv.name, volume);
  }
  for (const volume of volumes.values()) volume.resume();
  try {
    return await use(volumes);
  } finally {
    for (const volume of volumes.values()) await volume.close();
  }
}

function contents(machine: Machine): Promise<Map<string, string>> {
  return serving(machine, async (volumes) => {
    const all = new Map<string, string>();
    for (const [name, volume] of volumes) {
      all.set(name, (await readBytes(volume, 0, volume.limits.sizeBytes)).toString('base64'));
    }
    return all;
  });
}

async function fill(volume: Volume, chunks: readonly number[], mark: number): Promise<void> {
  for (const chunk of chunks) await writeBytes(volume, chunk * CHUNK_BYTES, Buffer.alloc(CHUNK_BYTES, mark + chunk));
  await flush(volume);
}

/** vg/o with the snapshots vg/s and vg/t, all of them written. */
async function prepared(): Promise<Machine> {
  const machine = Machine.empty(1);
  const plan = vgcreatePlan(machine, [newPv('/disk0')]);
  assert(plan.after !== null);
  const { after } = plan;
  const logicalVolumes = [
    linearLv('o', 'pv0', 0, ORIGIN_CHUNKS),
    linearLv('s', 'pv0', ORIGIN_CHUNKS, 30),
    linearLv('t', 'pv0', 60, 30),
  ];
  await machine.run(() => ({ ...plan, after: { ...after, logicalVolumes } }));
  await serving(machine, (volumes) => fill(volumes.get('o')!, [...Array.from({ length: ORIGIN_CHUNKS }).keys()], 1));
  const made = { originName: 'o', chunkSectors: CHUNK_BYTES / 512, zero: true, now: 0, hostName: 'test' };
  for (const cowName of ['s', 't']) await machine.change((group) => joinSnapshot(group, { ...made, cowName }));
  await serving(machine, async (volumes) => {
    await fill(volumes.get('o')!, [1, 2, 3, 9, 4, 20], 50);
    await fill(volumes.get('s')!, [2, 5, 6, 23], 100);
    await fill(volumes.get('t')!, [2, 7], 150);
  });
  return new Machine(machine.images());
}

async function finish(machine: Machine): Promise<void> {
  for (const { cow } of mergesOf((await groupOf(machine)).vg)) {
    assert.equal(await carryOutMerge(machine.context, { vgName: 'vg', cow }, () => {}), 'finished');
  }
}

void test(`power cuts during a merge, seed ${SEED}`, async () => {
  const machine = await prepared();
  const before = await contents(machine);
  const [o, s, t] = ['o', 's', 't'].map((name) => before.get(name));
  assert(o !== undefined && o !== s && s !== t && o !== t);
  const merging = new Machine(machine.images());
  await merging.change((group) => beginMerge(group, { name: 's', onlySnapshots: false, invalid: false }).plan);
  await finish(merging);
  const seen = new Map<string, number>();
  for (const { images, description } of crashStates(merging.journal, { statesPerMoment: STATES, seed: SEED })) {
    const crashed = new Machine(new Map([...images].map(([device, image]) => [device.name, image])));
    const { vg } = await groupOf(crashed);
    const state =
      mergesOf(vg).length > 0 ? 'merging' : vg.logicalVolumes.some(({ name }) => name === 's') ? 'before' : 'after';
    seen.set(state, (seen.get(state) ?? 0) + 1);
    if (state === 'merging') {
      // Reading it merges on; what merges in a command is another copy.
      const copy = new Machine(crashed.images());
      assert.deepEqual(
        await contents(copy),
        new Map([
          ['o', s],
          ['t', t],
        ]),
        description,
      );
      await finish(crashed);
    }
    const expected =
      state === 'before'
        ? before
        : new Map([
            ['o', s],
            ['t', t],
          ]);
    assert.deepEqual(await contents(crashed), expected, description);
    assert.equal(mergesOf((await groupOf(crashed)).vg).length, 0, description);
  }
  assert.deepEqual([...seen.keys()], ['before', 'merging', 'after'], JSON.stringify([...seen]));
  assert((seen.get('merging') ?? 0) > 20, JSON.stringify([...seen]));
});
