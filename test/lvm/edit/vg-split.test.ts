/** vgsplit and vgmerge on volume groups of every kind that LVM2 made: what goes along, what is refused and why. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CommandError } from '../../../src/lvm/edit/errors.ts';
import { validatePlan } from '../../../src/lvm/edit/validate.ts';
import { cloneName } from '../../../src/lvm/edit/vg-import-clone.ts';
import { mergePlan } from '../../../src/lvm/edit/vg-merge.ts';
import { type SplitPlans, splitPlans } from '../../../src/lvm/edit/vg-split.ts';
import type { VolumeGroup } from '../../../src/lvm/model.ts';
import { backupTexts } from '../../ondisk/samples.ts';
import { imagesOf, scanImages } from '../images.ts';

const SPARE = { wanted: true, creationTime: 0, creationHost: 'test' };
const TO = { name: 'new', id: 'NewNew-NewN-NewN-NewN-NewN-NewN-NewNew', metadataCopies: 0 };

async function sample(name: string): Promise<VolumeGroup> {
  const text = backupTexts().find((candidate) => candidate.name === `lvm2/${name}.vgcfg`)?.text;
  assert(text !== undefined, name);
  const { volumeGroups } = await scanImages(imagesOf(text, `/${name}`));
  const [group] = volumeGroups;
  assert(group !== undefined);
  return group;
}

function splitBy(from: VolumeGroup, ...labels: readonly string[]): SplitPlans {
  const pvs = from.vg.physicalVolumes.filter((pv) => labels.includes(pv.label)).map((pv) => pv.id);
  return splitPlans({ from, to: TO, what: { pvs }, spare: SPARE });
}

function names(plan: SplitPlans['remaining']): readonly string[] {
  return plan?.after?.logicalVolumes.map((lv) => lv.name).sort() ?? [];
}

void describe('what would be cut in two is refused', () => {
  const refusals: readonly (readonly [string, readonly string[], string])[] = [
    ['01-linear', ['pv0'], "Can't split Logical Volume lin1 between two Volume Groups"],
    ['03-mirror', ['pv0', 'pv1'], "Can't split mirror mdisk between two Volume Groups"],
    ['04-raid', ['pv0'], "Can't split LV raid0 between two Volume Groups"],
    ['06c-thin', ['pv1'], "Can't split pool data and metadata pool between two Volume Groups."],
    [
      '07b-cache',
      ['pv0'],
      'Cannot split cache origin vgcache/main_corig and its cache pool data vgcache/cpool_cpool_cdata into separate VGs.',
    ],
  ];
  for (const [name, labels, message] of refusals) {
    void test(`${name}, ${labels.join(' and ')}`, async () => {
      const from = await sample(name);
      assert.throws(() => splitBy(from, ...labels), { name: 'CommandError', message });
    });
  }

  void test('an LV that does not exist', async () => {
    const from = await sample('01-linear');
    const request = { from, to: TO, what: { lvName: 'none' }, spare: SPARE };
    assert.throws(
      () => splitPlans(request),
      new CommandError(`Logical volume none not in volume group ${from.vg.name}`),
    );
  });
});

void describe('what belongs together goes together', () => {
  void test('an origin, its snapshots and the records that tie them', async () => {
    const from = await sample('05-snapshot');
    const { exported, remaining } = splitBy(from, 'pv0');
    assert.deepEqual(names(exported), from.vg.logicalVolumes.map((lv) => lv.name).sort());
    assert.deepEqual(names(remaining), []);
    validatePlan(exported);
    if (remaining !== null) validatePlan(remaining);
  });

  void test('by one LV: all PVs under it', async () => {
    const from = await sample('04-raid');
    const { exported, remaining } = splitPlans({ from, to: TO, what: { lvName: 'raid6' }, spare: SPARE });
    // Five images on pv0 to pv4; the other LVs there are on no other PV.
    assert.equal(exported.after?.physicalVolumes.length, 5);
    assert.equal(remaining?.after?.physicalVolumes.length, 1);
    assert.deepEqual(names(exported), from.vg.logicalVolumes.map((lv) => lv.name).sort());
    assert(exported.after.status.includes('EXPORTED'));
  });

  void test('a spare that no pool needs any more is dropped, one that is needed is made', async () => {
    const from = await sample('07a-cachepool-unused');
    const spare = from.vg.logicalVolumes.find((lv) => lv.name.endsWith('_pmspare'));
    assert(spare !== undefined);
    const { exported, remaining } = splitBy(from, 'pv0');
    const spares = [...names(exported), ...names(remaining)].filter((name) => name.endsWith('_pmspare'));
    assert.deepEqual(spares, ['lvol0_pmspare']);
  });
});

void test('a merged group has the LVs of both', async () => {
  const from = await sample('03-mirror');
  const all = from.vg.logicalVolumes.map((lv) => lv.name);
  const other = await sample('05-snapshot');
  const plan = mergePlan(from, other, SPARE);
  validatePlan(plan);
  assert.deepEqual(names(plan), [...all, ...other.vg.logicalVolumes.map((lv) => lv.name)].sort());
  assert.throws(
    () => mergePlan(from, from, SPARE),
    /^CommandError: Duplicate logical volume name "mdisk" in "vgmir" and "vgmir"$/,
  );
});

void test('names of clones', () => {
  assert.equal(cloneName('vg', null, ['vg']), 'vg1');
  assert.equal(cloneName('vg', null, ['vg', 'vg1', 'vg2']), 'vg3');
  assert.equal(cloneName('vg', 'base', ['vg']), 'base');
  assert.equal(cloneName('vg', 'base', ['base', 'base1']), 'base2');
});
