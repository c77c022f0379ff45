/** The commit protocol beyond power cuts: what is written where, what is repaired, and that the text is LVM2's own. */
import assert from 'node:assert/strict';
import { open, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { COMMIT_STEPS } from '../../src/lvm/commit.ts';
import { changeVolumeGroup } from '../../src/lvm/command.ts';
import { withBalancedAreas } from '../../src/lvm/edit/area-balance.ts';
import { emptyPlan } from '../../src/lvm/edit/plan.ts';
import type { VolumeGroup } from '../../src/lvm/model.ts';
import { labelOf } from '../../src/lvm/pv-write.ts';
import { needsRepair, repairPlan } from '../../src/lvm/repair.ts';
import { scanDevices } from '../../src/lvm/scan.ts';
import { decodeMdaHeader, encodeMdaHeader } from '../../src/ondisk/mda.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { addLv, addTag, linearLv, Machine, newPv, pvText, vgcreatePlan } from '../crash/machine.ts';
import { withLvm2 } from './lvm2.ts';

const three = ['/disk0', '/disk1', '/disk2'].map((path) => newPv(path));
const AREA = 4096;

async function withVg(): Promise<Machine> {
  const machine = Machine.empty(3);
  await machine.vgcreate(...three);
  machine.said.length = 0;
  return machine;
}

function image(machine: Machine, path: string): Buffer {
  const disk = machine.disks.get(path);
  assert(disk !== undefined);
  return disk.image;
}

function repair(machine: Machine): Promise<VolumeGroup | null> {
  return machine.change(repairPlan);
}

async function sound(machine: Machine): Promise<VolumeGroup> {
  const { volumeGroups, warnings } = await machine.scan();
  assert.deepEqual(warnings, []);
  const [group] = volumeGroups;
  assert(group !== undefined && !needsRepair(group));
  return group;
}

void test('the steps are those of docs/commit-protocol.md', async () => {
  const text = await readFile(join(CHECKOUT, 'docs', 'commit-protocol.md'), 'utf8');
  const [, steps = ''] = text.split('## The steps\n');
  const [section = ''] = steps.split('\n## ');
  const documented = [...section.matchAll(/^\| `(\w+)` \|/gm)].map((match) => match[1]);
  assert.deepEqual(
    documented,
    COMMIT_STEPS.map((step) => step.name),
  );
});

void describe('damaged copies', () => {
  void test('a text: left alone by a change, rewritten by a repair', async () => {
    const machine = await withVg();
    image(machine, '/disk1').write('DAMAGE', AREA + 600);
    const damaged = Buffer.from(image(machine, '/disk1'));
    await machine.change((group) => addTag(group, 'x'));
    assert(image(machine, '/disk1').equals(damaged));
    assert(needsRepair((await machine.group())!));
    await repair(machine);
    assert(machine.said.includes('WARNING: repairing bad metadata in mda1 at 4096 on /disk1.'));
    assert.deepEqual((await sound(machine)).vg.tags, ['x']);
  });

  void test('either: rewritten before a change where auto_recovery is set', async () => {
    const machine = await withVg();
    image(machine, '/disk0').write('DAMAGE', AREA + 600);
    image(machine, '/disk1').writeUInt8(1, AREA + 100);
    const context = { ...machine.context, autoRecovery: true };
    await changeVolumeGroup(context, { vgName: 'vg' }, (group) => addTag(group, 'x'));
    assert.equal((await sound(machine)).vg.seqno, 3);
    await changeVolumeGroup(context, { vgName: 'vg' }, (group) => addTag(group, 'y'));
    assert.equal((await sound(machine)).vg.seqno, 4);
  });

  void test('a header with a wrong checksum: rewritten by a repair', async () => {
    const machine = await withVg();
    image(machine, '/disk1').writeUInt8(1, AREA + 100);
    await machine.change((group) => addTag(group, 'x'));
    await repair(machine);
    await sound(machine);
  });

  void test('a header that is none: never written', async () => {
    const machine = await withVg();
    image(machine, '/disk1').fill(0x55, AREA, AREA + 512);
    const damaged = Buffer.from(image(machine, '/disk1'));
    await repair(machine);
    assert(image(machine, '/disk1').equals(damaged));
    assert(machine.said.some((line) => line.startsWith('WARNING: not repairing bad metadata for mda1 on /disk1')));
  });

  void test('a header that claims a larger area than the label: never written', async () => {
    const machine = await withVg();
    const disk = image(machine, '/disk1');
    const header = decodeMdaHeader(disk.subarray(AREA, AREA + 512), { device: '/disk1', offset: AREA });
    encodeMdaHeader({ ...header, size: 400_000 }).copy(disk, AREA);
    const damaged = Buffer.from(disk);
    await machine.change((group) => addTag(group, 'x'));
    assert(disk.equals(damaged));
    assert(
      machine.said.some((line) => /size in the mda header/.test(line)),
      machine.said.join('\n'),
    );
  });
});

void describe('PVs that come and go', () => {
  void test('an outdated PV is cleared by a repair only', async () => {
    const machine = await withVg();
    const old = machine.images().get('/disk2')!;
    await machine.change((group) =>
      emptyPlan(group, { ...group.vg, physicalVolumes: group.vg.physicalVolumes.slice(0, 2) }),
    );
    old.copy(image(machine, '/disk2'));
    await machine.change((group) => addTag(group, 'x'));
    assert.equal((await machine.group())?.outdated.length, 1);
    await repair(machine);
    const { orphans } = await machine.scan();
    assert.deepEqual(
      orphans.map(({ found }) => [found?.device.path, found?.inUse]),
      [['/disk2', false]],
    );
    await sound(machine);
  });

  void test('one that moved to another VG is left alone', async () => {
    const machine = await withVg();
    const group = (await machine.group())!;
    const moving = group.pvs[2]!;
    const id = 'OtherV-GVgV-gVgV-gVgV-gVgV-gVgV-gVgVgV';
    const after = { ...group.vg, name: 'new', id, seqno: 1, physicalVolumes: [moving.text!] };
    await machine.run(() => ({ ...emptyPlan(null, after), joining: [moving.found!] }));
    const moved = Buffer.from(image(machine, '/disk2'));
    const left = { ...group.vg, physicalVolumes: group.vg.physicalVolumes.slice(0, 2) };
    await machine.run(() => ({ ...emptyPlan(group, left), movedAway: [moving.uuid] }));
    assert(image(machine, '/disk2').equals(moved));
    const { volumeGroups, warnings } = await machine.scan();
    assert.deepEqual(
      volumeGroups.map(({ vg, pvs }) => [vg.name, pvs.length]),
      [
        ['new', 1],
        ['vg', 2],
      ],
    );
    assert.deepEqual(warnings, []);
  });

  void test('a PV that gets another uuid stays the same PV', async () => {
    const machine = await withVg();
    const uuid = newPv('/disk1', 1, 5).uuid;
    await machine.change((group) => {
      const { found } = group.pvs[1]!;
      const physicalVolumes = group.vg.physicalVolumes.map((pv, index) => (index === 1 ? { ...pv, id: uuid } : pv));
      const label = { ...labelOf(found!), uuid };
      return {
        ...emptyPlan(group, { ...group.vg, physicalVolumes }),
        labels: [{ device: found!.device, label, kind: 'update', zeroHead: false, ignoredAreas: [], when: 'before' }],
      };
    });
    assert.equal((await sound(machine)).pvs[1]?.found?.uuid, uuid);
  });

  void test('an area that moves starts empty and gets the text', async () => {
    const machine = Machine.empty(1);
    await machine.vgcreate(newPv('/disk0', 2));
    await machine.change((group) => {
      const { found } = group.pvs[0]!;
      const label = labelOf(found!);
      const [first, second] = label.metadataAreas;
      const moved = { ...label, metadataAreas: [first!, { offset: second!.offset - 65_536, size: second!.size }] };
      const physicalVolumes = group.vg.physicalVolumes.map((pv) => ({ ...pv, peCount: 80 }));
      return {
        ...emptyPlan(group, { ...group.vg, physicalVolumes }),
        labels: [
          { device: found!.device, label: moved, kind: 'update', zeroHead: false, ignoredAreas: [], when: 'after' },
        ],
      };
    });
    const group = await sound(machine);
    assert.equal(group.pvs[0]?.found?.metadataAreas[1]?.offset, 512 * 1024 - 28_672 - 65_536);
  });

  void test('a device that holds two PVs of one VG is refused', async () => {
    const machine = await withVg();
    const twice = { ...newPv('/disk1', 1, 3) };
    await assert.rejects(
      machine.run((world) => {
        const group = world.volumeGroups[0]!;
        const physicalVolumes = [...group.vg.physicalVolumes, pvText(twice)];
        const joining = [{ ...group.pvs[1]!.found!, uuid: twice.uuid }];
        return { ...emptyPlan(group, { ...group.vg, physicalVolumes }), joining };
      }),
      /\/disk1: holds both PV/,
    );
  });
});

/** Which areas are in use, by PV. */
async function used(machine: Machine): Promise<readonly (readonly boolean[])[]> {
  return (await machine.group())!.pvs.map((pv) => pv.found!.metadataAreas.map((area) => !area.ignored));
}

void describe('metadata copies', () => {
  void test('are spread over PVs', async () => {
    const machine = Machine.empty(3);
    await machine.vgcreate(newPv('/disk0', 2), newPv('/disk1', 2), newPv('/disk2', 1));
    const copies = (count: number): Promise<unknown> =>
      machine.change((group) => emptyPlan(group, { ...group.vg, metadataCopies: count }));
    await copies(3);
    assert.deepEqual(await used(machine), [[true, false], [true, false], [true]]);
    await copies(1);
    assert.deepEqual(await used(machine), [[true, false], [false, false], [false]]);
    await copies(2);
    assert.deepEqual(await used(machine), [[true, false], [true, false], [false]]);
    await copies(9);
    assert.deepEqual(await used(machine), [[true, true], [true, true], [true]]);
    await copies(0);
    assert.deepEqual(await used(machine), [[true, true], [true, true], [true]]);
  });

  void test('one is kept when nobody counts them', () => {
    const machine = Machine.empty(2);
    const pvs = [
      { ...newPv('/disk0'), ignored: [0] },
      { ...newPv('/disk1'), ignored: [0] },
    ];
    const plan = withBalancedAreas(vgcreatePlan(machine, pvs));
    assert.deepEqual([...(plan.ignoredAreas?.values() ?? [])], [[], [0]]);
  });
});

/** The committed text of a device's first area, without seqno and header. */
async function vgSection(path: string): Promise<string> {
  const file = await open(path, 'r');
  try {
    const area = Buffer.alloc(1024 * 1024);
    await file.read(area, 0, area.length, AREA);
    const [slot] = decodeMdaHeader(area.subarray(0, 512), { device: path, offset: AREA }).slots;
    const text = area.toString('latin1', slot.offset, slot.offset + slot.size - 1);
    return text.slice(0, text.indexOf('\n}\n# ')).replace(/^seqno = .*$/m, '');
  } finally {
    await file.close();
  }
}

void test('the text is what LVM2 would write', async () => {
  await withTemporaryFolder(async (folder) => {
    const files = ['a', 'b'].map((name) => join(folder, name));
    for (const file of files) {
      await writeFile(file, '');
      await truncate(file, 16 * 1024 * 1024);
    }
    await withLvm2(files, async (lvm) => {
      assert.equal((await lvm.run('vgcreate', '-s', '64k', '--addtag', 'tag', 'vg', ...lvm.devices)).status, 0);
      const { context } = Machine.empty(0);
      const { scan: _scan, open: _open, ...rest } = context;
      await changeVolumeGroup({ ...rest, devices: lvm.devices }, { vgName: 'vg' }, (group) =>
        addLv(group, linearLv('lv', 'pv1', 3, 20)),
      );
      const ours = await vgSection(lvm.devices[0]!);
      assert.match(ours, /lv \{/);
      assert.equal((await lvm.run('vgchange', '--addtag', 'more', 'vg')).status, 0);
      assert.equal((await lvm.run('vgchange', '--deltag', 'more', 'vg')).status, 0);
      assert.equal(ours, await vgSection(lvm.devices[0]!));
      assert.equal(ours, await vgSection(lvm.devices[1]!));
      const { warnings } = await scanDevices(lvm.devices);
      assert.deepEqual(warnings, []);
    });
  });
});
