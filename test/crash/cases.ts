/** Every kind of commit, from empty disks, and what must hold whenever one was cut or failed. */
import assert from 'node:assert/strict';
import { emptyPlan, type Plan } from '../../src/lvm/edit/plan.ts';
import type { Scan, VolumeGroup } from '../../src/lvm/model.ts';
import { committedText, decodeMdaHeader, nextTextOffset } from '../../src/ondisk/mda.ts';
import {
  addLv,
  addTag,
  extend,
  extendByOrphan,
  linearLv,
  type Machine,
  newPv,
  reduce,
  vgcreatePlan,
} from './machine.ts';

export interface Case {
  readonly name: string;
  /** Brings empty disks to where the power may be cut. */
  readonly prepare: (machine: Machine) => Promise<void>;
  /** The commit that is cut. */
  readonly cut: (machine: Machine) => Promise<unknown>;
}

export const PATHS = ['/disk0', '/disk1', '/disk2'] as const;
const three = PATHS.map((path) => newPv(path));
const created = (machine: Machine): Promise<void> => machine.vgcreate(...three);
const copies = (group: VolumeGroup, metadataCopies: number): Plan => emptyPlan(group, { ...group.vg, metadataCopies });

export const CASES: readonly Case[] = [
  {
    name: 'pvcreate',
    prepare: () => Promise.resolve(),
    cut: (machine) => machine.pvcreate(newPv('/disk0', 2), newPv('/disk1', 0)),
  },
  {
    name: 'vgcreate',
    prepare: () => Promise.resolve(),
    cut: (machine) => machine.run(() => vgcreatePlan(machine, three)),
  },
  {
    name: 'vgcreate over orphans of another layout',
    prepare: (machine) => machine.pvcreate(newPv('/disk0', 2, 1), newPv('/disk1', 0, 1), newPv('/disk2', 1, 1)),
    cut: (machine) => machine.run(() => vgcreatePlan(machine, three)),
  },
  {
    name: 'an LV is added',
    prepare: created,
    cut: (machine) => machine.change((group) => addLv(group, linearLv('lv', 'pv1', 3, 20))),
  },
  {
    name: 'vgextend by a new PV with two areas',
    prepare: (machine) => machine.vgcreate(...three.slice(0, 2)),
    cut: (machine) => machine.change((group) => extend(machine, group, newPv('/disk2', 2))),
  },
  {
    name: 'vgextend by an orphan',
    async prepare(machine) {
      await machine.vgcreate(...three.slice(0, 2));
      await machine.pvcreate(newPv('/disk2'));
    },
    cut: (machine) => machine.change((group, world) => extendByOrphan(group, world)),
  },
  { name: 'vgreduce', prepare: created, cut: (machine) => machine.change((group) => reduce(group, 0)) },
  { name: 'vgremove', prepare: created, cut: (machine) => machine.change((group) => emptyPlan(group, null)) },
  { name: 'fewer copies', prepare: created, cut: (machine) => machine.change((group) => copies(group, 1)) },
  {
    name: 'more copies',
    async prepare(machine) {
      await created(machine);
      await machine.change((group) => copies(group, 1));
    },
    cut: (machine) => machine.change((group) => copies(group, 3)),
  },
  {
    name: 'the copy moves from one PV to another',
    async prepare(machine) {
      await created(machine);
      await machine.change((group) => copies(group, 1));
    },
    cut: (machine) =>
      machine.change((group) => {
        const ignoredAreas = new Map(
          group.pvs.map((pv, index) => [pv.uuid, index === 2 ? [] : pv.found!.metadataAreas.map((area) => area.index)]),
        );
        return { ...emptyPlan(group, group.vg), ignoredAreas };
      }),
  },
  {
    name: 'a text that wraps',
    async prepare(machine) {
      await created(machine);
      for (let round = 0; !nextTextWraps(machine); round++) {
        assert(round < 100, 'no text wraps');
        await machine.change((group) => addTag(group, `round${round}`));
      }
    },
    cut: (machine) => machine.change((group) => addTag(group, 'wrapped')),
  },
  {
    name: 'a VG whose PVs have two areas, one or none',
    prepare: (machine) => machine.vgcreate(newPv('/disk0', 2), newPv('/disk1', 1), newPv('/disk2', 0)),
    cut: (machine) => machine.change((group) => addTag(group, 'tag')),
  },
  {
    name: 'stale and precommitted copies are left from before',
    async prepare(machine) {
      await created(machine);
      const old = machine.images().get('/disk1');
      await machine.change((group) => addTag(group, 'newer'));
      old?.copy(machine.disks.get('/disk1')!.image);
    },
    cut: (machine) => machine.change((group) => addTag(group, 'newest')),
  },
  {
    name: 'rename',
    prepare: created,
    cut: (machine) => machine.change((group) => emptyPlan(group, { ...group.vg, name: 'renamed' })),
  },
];

/** Whether the next text of about the present size runs past the end of the first disk's area. */
function nextTextWraps(machine: Machine): boolean {
  const image = machine.images().get('/disk0');
  assert(image !== undefined);
  const header = decodeMdaHeader(image.subarray(4096, 4608), { device: '/disk0', offset: 4096 });
  const text = committedText(header);
  assert(text !== null);
  return nextTextOffset(header, text, text.size + 64) + text.size > header.size;
}

/** What a scan says of everything that a commit may change. */
export function summary(scan: Scan): string {
  const groups = scan.volumeGroups.map(({ vg, pvs }) => {
    const found = pvs.map((pv) => [pv.uuid, pv.found?.device.path, pv.missing]);
    return { vg: { ...vg, physicalVolumes: vg.physicalVolumes }, found };
  });
  return JSON.stringify({ groups, unreadable: scan.unreadable.map(({ name }) => name) });
}

export async function nextCommandWorks(machine: Machine, name: string | null): Promise<void> {
  if (name === null) {
    await machine.vgcreate(...PATHS.map((path) => newPv(path, 1, 2)));
  } else {
    const { volumeGroups } = await machine.scan();
    const [group] = volumeGroups;
    assert(group !== undefined);
    await machine.run(() => ({ ...addTag(group, 'next'), clearOutdated: true, repairDamaged: true }));
  }
  const { volumeGroups, orphans, warnings } = await machine.scan();
  const [group] = volumeGroups;
  assert.equal(volumeGroups.length, 1);
  assert.deepEqual(group?.staleAreas, []);
  assert.deepEqual(group.outdated, []);
  assert(group.pvs.every((pv) => pv.found?.inUse === true));
  assert(orphans.every((pv) => pv.found?.inUse === false));
  const leftovers = group.pvs.flatMap((pv) => pv.found?.metadataAreas ?? []).filter((area) => area.precommit);
  assert.deepEqual(leftovers, []);
  assert.deepEqual(warnings, []);
}
