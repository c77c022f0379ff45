/** Edits of whole volume groups: extents of another size move no byte, and what can't be expressed is refused. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { allocatedRuns } from '../../../src/lvm/allocation-map.ts';
import { CommandError } from '../../../src/lvm/edit/errors.ts';
import { exportVgPlan, importVgPlan, withExtentSize } from '../../../src/lvm/edit/vg-change.ts';
import { partialVolumes, removeMissingPlan } from '../../../src/lvm/edit/vg-reduce.ts';
import { removeVgPlan } from '../../../src/lvm/edit/vg-remove.ts';
import type { VolumeGroupText } from '../../../src/ondisk/metadata.ts';
import { group, linear, lv, pv, striped, vg } from './groups.ts';

/** Where every LV lies, in sectors. */
function places(text: VolumeGroupText): readonly string[] {
  const size = text.extentSizeSectors;
  return [...allocatedRuns(text)].flatMap(([label, runs]) =>
    runs.map(({ startPe, length, owner }) => `${label} ${startPe * size}+${length * size} ${owner.lv.name}`),
  );
}

describe('extents of another size', () => {
  test('move no byte, or are refused', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 15 }), fc.integer({ min: 1, max: 8 })), { maxLength: 4 }),
        fc.constantFrom(2, 256, 512, 1024, 2048, 4096, 8192, 768),
        (runs, sectors) => {
          let next = 0;
          const lvs = runs.map(([gap, count], index) => {
            const start = next + gap;
            next = start + count;
            return lv(`lv${index}`, linear('pv0', start, count));
          });
          const text = vg(
            [pv(128), pv(64)],
            [
              ...lvs,
              lv(
                's',
                striped(
                  [
                    ['pv0', 120],
                    ['pv1', 4],
                  ],
                  4,
                ),
              ),
            ],
          );
          let changed: VolumeGroupText;
          try {
            changed = withExtentSize(text, sectors);
          } catch (error) {
            assert(error instanceof CommandError);
            return;
          }
          assert.deepEqual(places(changed), places(text));
          assert.equal(changed.extentSizeSectors, sectors);
        },
      ),
      { numRuns: 200 },
    );
  });

  test('sizes that are none', () => {
    const text = vg([pv(16)], []);
    for (const sectors of [0, 6, 300]) assert.throws(() => withExtentSize(text, sectors), CommandError);
    assert.throws(() => withExtentSize(text, 2048 * 32), /perfect fit/);
  });
});

describe('export and import', () => {
  test('give back what was there', () => {
    const before = group(vg([pv(16), pv(16)], [lv('a', linear('pv0', 0, 4))]));
    const exported = exportVgPlan(before).after;
    assert(exported !== null);
    assert.deepEqual(exported.status[0], 'EXPORTED');
    assert(exported.physicalVolumes.every(({ status }) => status.includes('EXPORTED')));
    assert.deepEqual(importVgPlan(group(exported), null, false).after, before.vg);
    assert.throws(() => importVgPlan(before, null, false), /is not exported/);
  });
});

describe('missing PVs', () => {
  test('make partial whatever is built on them', async () => {
    const text = vg([pv(16), pv(16)], [lv('a', linear('pv0', 0, 4)), lv('b', linear('pv1', 0, 4))]);
    assert.deepEqual(
      partialVolumes(text, new Set(['pv1'])).map(({ name }) => name),
      ['b'],
    );
    const whole = group(text);
    assert.equal((await removeMissingPlan(whole, 'keep')).plan, null);
    const missing = {
      ...whole,
      partial: true,
      pvs: whole.pvs.map((p, i) => (i === 1 ? { ...p, found: null, missing: true } : p)),
    };
    const left = await removeMissingPlan(missing, 'keep');
    assert.equal(left.incomplete, true);
    assert.deepEqual(left.plan?.after?.logicalVolumes, text.logicalVolumes);
    const forced = await removeMissingPlan(missing, 'force');
    assert.equal(forced.incomplete, false);
    assert.deepEqual(
      forced.plan?.after?.logicalVolumes.map(({ name }) => name),
      ['a'],
    );
    assert.equal(forced.plan?.after?.physicalVolumes.length, 1);
  });
});

const never = (): Promise<boolean> => Promise.reject(new Error('was asked'));

describe('removing a VG', () => {
  const free = lv('free', linear('pv0', 4, 4));
  const moving = lv('moving', linear('pv0', 0, 4));
  const locked = { ...moving, status: [...moving.status, 'LOCKED'] };
  test('goes through every LV, and gives their extents back', async () => {
    const whole = group(vg([pv(16)], [moving, free]));
    const plan = await removeVgPlan(whole, { forced: true, confirm: never, discards: false });
    assert.equal(plan.after, null);
    assert.deepEqual(
      plan.messages.map(({ text }) => text),
      [
        'Logical volume "moving" successfully removed.',
        'Logical volume "free" successfully removed.',
        'Volume group "vg" successfully removed',
      ],
    );
    const asked: string[] = [];
    const confirm = (question: string): Promise<boolean> => Promise.resolve(asked.push(question) > 0);
    const discarding = await removeVgPlan(whole, { forced: false, confirm, discards: true });
    assert.deepEqual(
      asked,
      ['moving', 'free'].map((n) => `Do you really want to remove and DISCARD logical volume vg/${n}? [y/n]: `),
    );
    assert.deepEqual(discarding.effects, [
      {
        kind: 'erase',
        method: 'discard',
        what: 'what volume group vg gave back',
        ranges: [1, 5].map((mib) => ({ device: '/dev/pv0', offset: mib * 1048576, length: 4 * 1048576 })),
      },
    ]);
  });

  test('stops at an LV that a pvmove is moving, however much it is forced', async () => {
    const busy = group(vg([pv(16)], [free, locked]));
    const removal = removeVgPlan(busy, { forced: true, confirm: never, discards: false });
    await assert.rejects(removal, { lines: ["Can't remove locked logical volume vg/moving."] });
  });
});
