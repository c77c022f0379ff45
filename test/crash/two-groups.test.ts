/**
 * Power cuts during commands that change two volume groups: vgsplit and vgmerge. Whatever the disks hold afterwards, a scan finds
 * what one of their commits left (or what was there before), every PV is in one group, and the next command works on each group.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { crashStates } from '../../src/block/power-cut.ts';
import type { Changes } from '../../src/lvm/changes.ts';
import { withChanges } from '../../src/lvm/command.ts';
import { emptyPlan } from '../../src/lvm/edit/plan.ts';
import { exportForMerge, mergePlan } from '../../src/lvm/edit/vg-merge.ts';
import { importSplit, splitPlans } from '../../src/lvm/edit/vg-split.ts';
import type { Scan, VolumeGroup } from '../../src/lvm/model.ts';
import { addLv, linearLv, Machine, newPv, vgcreatePlan } from './machine.ts';

const STATES = Number(process.env['ORION_CRASH_STATES'] ?? '12');
const SEED = Number(process.env['ORION_CRASH_SEED'] ?? String(Date.now() % 1_000_000));
const OTHER_ID = 'OtherV-GVgV-gVgV-gVgV-gVgV-gVgV-gVgVgV';
const SPARE = { wanted: true, creationTime: 0, creationHost: 'test' };

function summary({ volumeGroups }: Scan): string {
  const groups = volumeGroups.map(({ vg, pvs }) => ({ vg, found: pvs.map((pv) => pv.found?.device.path ?? null) }));
  return JSON.stringify(groups);
}

/** A VG of three PVs with an LV on each. */
async function one(): Promise<Machine> {
  const machine = Machine.empty(3);
  await machine.vgcreate(...[0, 1, 2].map((index) => newPv(`/disk${index}`, index === 1 ? 2 : 1)));
  for (const index of [0, 1, 2]) {
    await machine.change((group) => addLv(group, linearLv(`lv${index}`, `pv${index}`, 0, 5)));
  }
  return machine;
}

/** Two VGs: vg has the first two disks, other the third and fourth, each with an LV. */
async function two(): Promise<Machine> {
  const machine = Machine.empty(4);
  await machine.vgcreate(newPv('/disk0'), newPv('/disk1'));
  await machine.change((group) => addLv(group, linearLv('one', 'pv1', 0, 5)));
  await machine.run(() => {
    const plan = vgcreatePlan(machine, [newPv('/disk2'), newPv('/disk3', 2)]);
    const after = { ...plan.after!, name: 'other', id: OTHER_ID, logicalVolumes: [linearLv('two', 'pv0', 7, 5)] };
    return { ...plan, after };
  });
  return machine;
}

async function split(changes: Changes, note: () => void): Promise<void> {
  const from = await changes.volumeGroup({ vgName: 'vg' });
  const to = { name: 'other', id: OTHER_ID, metadataCopies: 0 };
  const moving = from.pvs.slice(1).map((pv) => pv.uuid);
  const { exported, remaining } = splitPlans({ from, to, what: { pvs: moving }, spare: SPARE });
  const group = await changes.apply(exported);
  assert(group !== null && remaining !== null);
  await changes.apply(remaining);
  note();
  await changes.apply(importSplit(group, 'vg', false));
}

async function merge(changes: Changes, note: () => void): Promise<void> {
  const from = await changes.volumeGroup({ vgName: 'other' });
  const to = await changes.volumeGroup({ vgName: 'vg' });
  const exported = await changes.apply(exportForMerge(from));
  assert(exported !== null);
  note();
  await changes.apply(mergePlan(exported, to, SPARE));
}

/** Imports what is exported and changes every group once. */
async function goOn(machine: Machine): Promise<void> {
  const { volumeGroups } = await machine.scan();
  for (const { vg } of volumeGroups) {
    await machine.run((world) => {
      const group = world.volumeGroups.find((candidate) => candidate.vg.id === vg.id);
      assert(group !== undefined);
      const status = group.vg.status.filter((word) => word !== 'EXPORTED');
      const physicalVolumes = group.vg.physicalVolumes.map((pv) => ({
        ...pv,
        status: pv.status.filter((word) => word !== 'EXPORTED'),
      }));
      const after: VolumeGroup['vg'] = { ...group.vg, status, physicalVolumes, tags: ['next'] };
      return { ...emptyPlan(group, after), clearOutdated: true };
    });
  }
  const after = await machine.scan();
  assert.deepEqual(after.warnings, []);
  assert.equal(after.volumeGroups.length, volumeGroups.length);
  assert(after.volumeGroups.every((group) => !group.partial && group.staleAreas.length === 0));
}

const CASES = [
  { name: 'vgsplit', make: one, cut: split },
  { name: 'vgmerge', make: two, cut: merge },
] as const;

void describe(`power cuts between two groups, seed ${SEED}`, () => {
  for (const { name, make, cut } of CASES) {
    void test(name, async () => {
      const first = await make();
      const machine = new Machine(first.images());
      const allowed = new Map([[summary(await machine.scan()), 0]]);
      const noted: ReadonlyMap<string, Buffer>[] = [];
      await withChanges(machine.context, {}, (changes) => cut(changes, () => noted.push(machine.images())));
      for (const images of noted) allowed.set(summary(await new Machine(images).scan()), 0);
      allowed.set(summary(await machine.scan()), 0);
      assert.equal(allowed.size, 3);
      let states = 0;
      for (const { images, description } of crashStates(machine.journal, { statesPerMoment: STATES, seed: SEED })) {
        const crashed = new Machine(new Map([...images].map(([device, image]) => [device.name, image])));
        const now = summary(await crashed.scan());
        const count = allowed.get(now);
        assert(count !== undefined, `${description}\n${now}\nis none of\n${[...allowed.keys()].join('\n')}`);
        allowed.set(now, count + 1);
        if (states++ % 3 !== 0) continue;
        try {
          await goOn(crashed);
        } catch (error) {
          throw new Error(`${description}: the next command fails: ${crashed.said.join('\n')}`, { cause: error });
        }
      }
      assert([...allowed.values()].every((count) => count > 0));
    });
  }
});
