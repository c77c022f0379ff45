/** Damaged PVs are made whole again from a copy of the metadata: a scan finds afterwards what it found before the damage. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CommandError } from '../../src/lvm/edit/errors.ts';
import {
  type MetadataFile,
  repairLabelHeader,
  repairMetadata,
  repairPvHeader,
  type RepairContext,
} from '../../src/lvm/pv-repair.ts';
import { linearLv, Machine, newPv, vgcreatePlan } from '../crash/machine.ts';

const PATH = '/disk0';
const AREA_OFFSET = 4096;

/** A PV whose first metadata area fills the room before its extents, as on real PVs, with a VG of one LV. */
async function soundPv(): Promise<{ readonly machine: Machine; readonly file: MetadataFile; readonly vg: string }> {
  const machine = Machine.empty(1);
  await machine.run(() => {
    const plan = vgcreatePlan(machine, [newPv(PATH)]);
    assert(plan.after !== null);
    return { ...plan, after: { ...plan.after, logicalVolumes: [linearLv('lv', 'pv0', 0, 3)] } };
  });
  const group = await machine.group();
  assert(group !== null);
  const file = { vg: group.vg, text: Buffer.concat([group.rawText, Buffer.alloc(1)]) };
  return { machine, file, vg: JSON.stringify(group.vg) };
}

function contextFor(machine: Machine, file: MetadataFile | null, more: Partial<RepairContext> = {}): RepairContext {
  const device = machine.disks.get(PATH);
  assert(device !== undefined);
  return {
    device,
    labelSector: 1,
    settings: { mdaNum: 0 },
    file,
    test: false,
    yes: true,
    deviceWithUuid: () => Promise.resolve(null),
    prompt: () => Promise.resolve(false),
    out: () => {},
    err: () => {},
    ...more,
  };
}

function zero(machine: Machine, offset: number, length: number): void {
  machine.disks.get(PATH)?.image.fill(0, offset, offset + length);
}

async function isWhole(machine: Machine, vg: string): Promise<void> {
  const { volumeGroups, warnings } = await machine.scan();
  assert.deepEqual(warnings, []);
  assert.equal(JSON.stringify(volumeGroups[0]?.vg), vg);
}

void describe('repairs', () => {
  const damages: Readonly<Record<string, readonly (readonly [number, number])[]>> = {
    'the label is gone': [[0, 1024]],
    'the header of the metadata area is gone': [[AREA_OFFSET, 512]],
    'the text is gone': [[AREA_OFFSET + 512, 1024]],
    'label, header and text are gone': [
      [0, 1024],
      [AREA_OFFSET, 2048],
    ],
  };
  for (const [name, ranges] of Object.entries(damages)) {
    void test(`${name}: pv_header and metadata`, async () => {
      const { machine, file, vg } = await soundPv();
      for (const [offset, length] of ranges) zero(machine, offset, length);
      assert(await repairPvHeader(contextFor(machine, file)));
      assert(await repairMetadata(contextFor(machine, file)));
      await isWhole(machine, vg);
    });
  }

  void test('a wrong type: label_header', async () => {
    const { machine, vg } = await soundPv();
    machine.disks.get(PATH)?.image.write('XXXX', 512 + 24);
    const said: string[] = [];
    assert(await repairLabelHeader(contextFor(machine, null, { out: (line) => said.push(line) })));
    assert(said.includes('CHECK: label_header.type expected LVM2 001'));
    await isWhole(machine, vg);
  });

  void test('the header can be made of settings alone', async () => {
    const { machine, file, vg } = await soundPv();
    zero(machine, 0, 1024);
    const [pv] = file.vg.physicalVolumes;
    assert(pv !== undefined);
    const settings = {
      mdaNum: 0,
      pvUuid: pv.id,
      deviceSize: (pv.devSizeSectors ?? 0) * 512,
      dataOffset: pv.peStartSectors * 512,
    };
    assert(await repairPvHeader(contextFor(machine, null, { settings })));
    await isWhole(machine, vg);
  });

  void test('a bootloader area is kept', async () => {
    const { machine, file } = await soundPv();
    zero(machine, 0, 1024);
    const physicalVolumes = file.vg.physicalVolumes.map((pv) => ({ ...pv, baStartSectors: 56, baSizeSectors: 8 }));
    await repairPvHeader(contextFor(machine, { ...file, vg: { ...file.vg, physicalVolumes } }));
    const { volumeGroups } = await machine.scan();
    const found = volumeGroups[0]?.pvs[0]?.found;
    assert.deepEqual(found?.bootloaderAreas, [{ offset: 56 * 512, size: 8 * 512 }]);
    assert.equal(found.metadataAreas[0]?.size, 56 * 512 - AREA_OFFSET);
  });
});

/** Tries to repair a PV without a label; gives what it failed with, if it did. */
async function unchanged(file: MetadataFile | null, more: Partial<RepairContext>): Promise<unknown> {
  const { machine, file: own } = await soundPv();
  zero(machine, 0, 1024);
  const before = machine.images().get(PATH);
  let failure: unknown = null;
  try {
    await repairPvHeader(contextFor(machine, file ?? own, more));
  } catch (error) {
    failure = error;
  }
  assert.deepEqual(machine.images().get(PATH), before);
  return failure;
}

void describe('nothing is written', () => {
  void test('in test mode, and after a no', async () => {
    assert.equal(await unchanged(null, { test: true }), null);
    assert.equal(await unchanged(null, { yes: false }), null);
  });

  void test('when the uuid is on another device', async () => {
    const failure = await unchanged(null, { deviceWithUuid: () => Promise.resolve('/other') });
    assert(failure instanceof CommandError);
    assert.match(failure.message, /^Cannot use PV UUID PvPv\w+ which exists on \/other$/);
  });

  void test('when the metadata does not know the device', async () => {
    const { file } = await soundPv();
    const physicalVolumes = file.vg.physicalVolumes.map((pv) => ({ ...pv, device: '/dev/other' }));
    const failure = await unchanged({ ...file, vg: { ...file.vg, physicalVolumes } }, {});
    assert(failure instanceof CommandError);
    assert.deepEqual(failure.lines, [
      'PV name /disk0 not found in metadata file.',
      'No valid PV UUID, specify a PV UUID from metadata in --settings.',
    ]);
  });

  void test('when the text is too large for the area', async () => {
    const { machine, file } = await soundPv();
    const before = machine.images().get(PATH);
    const text = Buffer.alloc(20_000, '\n');
    await assert.rejects(
      repairMetadata(contextFor(machine, { ...file, text })),
      /^CommandError: Metadata text 20000 too large for mda_size 28672 max 13568$/,
    );
    assert.deepEqual(machine.images().get(PATH), before);
  });
});
