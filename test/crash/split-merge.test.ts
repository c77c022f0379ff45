/**
 * Power cuts during vgsplit and vgmerge, which take several commits: at every moment each PV and each LV is in exactly one volume
 * group, whole, and what is left to do is at most a vgimport.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { crashStates } from '../../src/block/power-cut.ts';
import { withChanges } from '../../src/lvm/command.ts';
import { emptyPlan } from '../../src/lvm/edit/plan.ts';
import { exportForMerge, mergePlan } from '../../src/lvm/edit/vg-merge.ts';
import { importSplit, splitPlans } from '../../src/lvm/edit/vg-split.ts';
import type { Scan, VolumeGroup } from '../../src/lvm/model.ts';
import { addTag, linearLv, Machine, newPv, vgcreatePlan } from './machine.ts';

const STATES = Number(process.env['ORION_CRASH_STATES'] ?? '8');
const SEED = Number(process.env['ORION_CRASH_SEED'] ?? String(Date.now() % 1_000_000));
const DISKS = ['/disk0', '/disk1', '/disk2', '/disk3'];
const OTHER_ID = 'OtOtOt-OtOt-OtOt-OtOt-OtOt-OtOt-OtOtOt';
const SPARE = { wanted: true, creationTime: 0, creationHost: 'test' };

/** Every LV with its VG and its PVs' devices; the VG's mark, if it is exported. */
function picture(scan: Scan): string {
  const lines = scan.volumeGroups.map((group) => {
    assert(!group.partial, `${group.vg.name} is partial`);
    const devices = group.pvs.map((pv) => pv.found?.device.path ?? '').sort();
    const lvs = group.vg.logicalVolumes.map((lv) => {
      const segment = lv.segments[0];
      assert(segment?.type === 'striped');
      const label = segment.areas[0]?.name;
      return `${lv.name}@${group.pvs.find((pv) => pv.text?.label === label)?.found?.device.path}`;
    });
    const mark = group.vg.status.includes('EXPORTED') ? ' exported' : '';
    return `${group.vg.name}${mark}: ${devices.join(',')} ${lvs.sort().join(',')}`;
  });
  return lines.sort().join('; ');
}

function groupNamed(scan: Scan, name: string): VolumeGroup {
  const group = scan.volumeGroups.find(({ vg }) => vg.name === name);
  assert(group !== undefined, `${name} is not there`);
  return group;
}

/** VG vg on the first disks of which some have no or two metadata areas, with an LV on each. */
async function prepare(machine: Machine, disks: readonly string[]): Promise<void> {
  const areas = [1, 2, 1, 0] as const;
  const plan = vgcreatePlan(
    machine,
    disks.map((path, index) => newPv(path, areas[index])),
  );
  assert(plan.after !== null);
  const logicalVolumes = disks.map((path, index) => linearLv(`lv${path.at(-1)}`, `pv${index}`, 2, 5));
  await machine.run(() => ({ ...plan, after: { ...plan.after!, logicalVolumes } }));
}

async function split(machine: Machine, disks: readonly string[]): Promise<void> {
  await withChanges(machine.context, {}, async (changes) => {
    const from = groupNamed(changes.scan, 'vg');
    const pvs = from.pvs.filter((pv) => disks.includes(pv.found?.device.path ?? '')).map((pv) => pv.uuid);
    const to = { name: 'vh', id: OTHER_ID, metadataCopies: 0 };
    const { exported, remaining } = splitPlans({ from, to, what: { pvs }, spare: SPARE });
    const group = await changes.apply(exported);
    assert(remaining !== null && group !== null);
    await changes.apply(remaining);
    await changes.apply(importSplit(group, 'vg', false));
  });
}

async function merge(machine: Machine): Promise<void> {
  await withChanges(machine.context, {}, async (changes) => {
    const to = groupNamed(changes.scan, 'vg');
    const exported = await changes.apply(exportForMerge(groupNamed(changes.scan, 'vh')));
    assert(exported !== null);
    await changes.apply(mergePlan(exported, to, SPARE));
  });
}

async function cutEverywhere(machine: Machine, pictures: readonly string[]): Promise<void> {
  const seen = new Set<string>();
  for (const { images, description } of crashStates(machine.journal, { statesPerMoment: STATES, seed: SEED })) {
    const crashed = new Machine(new Map([...images].map(([device, image]) => [device.name, image])));
    const scan = await crashed.scan();
    const now = picture(scan);
    assert(pictures.includes(now), `${description}: ${now}`);
    seen.add(now);
    // The next change of every VG makes all copies agree.
    for (const group of scan.volumeGroups) {
      await crashed.run((world) => addTag(groupNamed(world, group.vg.name), 'next'));
    }
    assert.equal(picture(await crashed.scan()), now, description);
  }
  assert.deepEqual([...seen].sort(), [...pictures].sort());
}

void describe(`power cuts between commits, seed ${SEED}`, () => {
  const whole = `vg: ${DISKS.join(',')} lv0@/disk0,lv1@/disk1,lv2@/disk2,lv3@/disk3`;
  const left = 'vg: /disk0,/disk3 lv0@/disk0,lv3@/disk3';
  const right = '/disk1,/disk2 lv1@/disk1,lv2@/disk2';

  void test('vgsplit', async () => {
    const first = Machine.empty(DISKS.length);
    await prepare(first, DISKS);
    const machine = new Machine(first.images());
    await split(machine, ['/disk1', '/disk2']);
    await cutEverywhere(machine, [whole, `${left}; vh exported: ${right}`, `${left}; vh: ${right}`]);
  });

  void test('vgmerge', async () => {
    const first = Machine.empty(DISKS.length);
    await prepare(first, DISKS);
    await split(first, ['/disk1', '/disk2']);
    const machine = new Machine(first.images());
    await merge(machine);
    await cutEverywhere(machine, [`${left}; vh: ${right}`, `${left}; vh exported: ${right}`, whole]);
  });

  void test('a merge that is refused leaves both groups as they were', async () => {
    const machine = Machine.empty(DISKS.length);
    await prepare(machine, DISKS);
    await split(machine, ['/disk1', '/disk2']);
    await machine.run((world) => {
      const group = groupNamed(world, 'vh');
      return emptyPlan(group, { ...group.vg, extentSizeSectors: 4 });
    });
    await assert.rejects(merge(machine), /Extent sizes differ: 8 \(vg\) and 4 \(vh\)/);
  });
});
