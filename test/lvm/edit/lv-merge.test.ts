/** Merges, splits and joins of COW snapshots in the metadata: LVM2's own texts of before and during a merge are the measure. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { asServed, mergesOf } from '../../../src/lvm/deferred-merges.ts';
import { Notes } from '../../../src/lvm/edit/lv-notes.ts';
import {
  beginMerge,
  endMerge,
  joinable,
  joinSnapshot,
  splitSnapshot,
  splittable,
} from '../../../src/lvm/edit/lv-merge.ts';
import { LvRemover } from '../../../src/lvm/edit/lv-remove.ts';
import type { VolumeGroup } from '../../../src/lvm/model.ts';
import { relationsOf } from '../../../src/lvm/relations.ts';
import type { LogicalVolumeText } from '../../../src/ondisk/metadata.ts';
import { diskTexts } from '../../ondisk/samples.ts';
import { groupOf } from '../images.ts';

async function sample(name: string): Promise<VolumeGroup> {
  const text = diskTexts().find((candidate) => candidate.name === `${name}.raw`)?.text;
  assert(text !== undefined, name);
  return groupOf(text);
}

const WANTED = { onlySnapshots: false, invalid: false };
const NAMES = new Set(['org', 'snap1', 'snap2', 'sparse', 'snapshot0', 'snapshot1', 'snapshot2', 'sparse_vorigin']);

/** What a merge may change of an LV. */
function changing(lvs: readonly LogicalVolumeText[]): unknown {
  return lvs
    .filter(({ name }) => NAMES.has(name))
    .map(({ name, status, segments }) => ({ name, status, segments }))
    .toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

describe('a merge', () => {
  test('is marked as LVM2 marks it', async () => {
    const before = await sample('05-snapshot');
    const merging = await sample('05b-snapshot-merging');
    const { plan, origin } = beginMerge(before, { ...WANTED, name: 'snap2' });
    assert.equal(origin.name, 'org');
    assert.deepEqual(changing(plan.after!.logicalVolumes), changing(merging.vg.logicalVolumes));
    const [merge] = mergesOf(merging.vg);
    assert.deepEqual([merge?.originName, merge?.cowName, merge?.record], ['org', 'snap2', 'snapshot1']);
    assert.deepEqual(
      changing(asServed(merging.vg, (id) => id === merge?.origin).logicalVolumes),
      changing(before.vg.logicalVolumes),
    );
    assert.equal(
      asServed(merging.vg, () => false),
      merging.vg,
    );
  });

  test('leaves nothing of the snapshot', async () => {
    const merging = await sample('05b-snapshot-merging');
    const cow = relationsOf(merging.vg).lvs.get('snap2');
    assert(cow !== undefined);
    const names = endMerge(merging, cow).after!.logicalVolumes.map(({ name }) => name);
    assert.deepEqual(
      names,
      merging.vg.logicalVolumes.map(({ name }) => name).filter((name) => !['snap2', 'snapshot1'].includes(name)),
    );
  });

  test('that nobody goes on with is given up by lvremove, after a question', async () => {
    const { vg } = await sample('05b-snapshot-merging');
    const questions: string[] = [];
    const confirm = (answer: boolean) => (question: string) => {
      questions.push(question);
      return Promise.resolve(answer);
    };
    const around = { confirm: confirm(false), discards: false };
    await assert.rejects(new LvRemover(vg, around).remove('snap2'), /vgsnap\/snap2 not removed/);
    assert.deepEqual(questions, [
      'Removing merging snapshot vgsnap/snap2 loses what vgsnap/org has not got of it. Proceed? [y/n]: ',
    ]);
    await assert.rejects(
      new LvRemover(vg, { ...around, merges: (name) => name === 'org' }).remove('snap2'),
      /Can't remove merging snapshot logical volume vgsnap\/snap2\./,
    );
    const remover = new LvRemover(vg, { ...around, confirm: confirm(true) });
    await remover.remove('snap2');
    assert.deepEqual(remover.result().lines, ['Logical volume "snap2" successfully removed.']);
    assert(!remover.result().vg.logicalVolumes.some(({ name }) => name === 'snapshot1'));
  });

  test('is refused while another one goes on, or of what is invalid', async () => {
    const merging = await sample('05b-snapshot-merging');
    assert.throws(
      () => beginMerge(merging, { ...WANTED, name: 'snap1' }),
      /Cannot merge snapshot vgsnap\/snap1 into the origin vgsnap\/org with merging snapshot vgsnap\/snap2\./,
    );
    assert.throws(() => beginMerge(merging, { ...WANTED, name: 'snap2' }), /lv_is_merging_cow/);
    assert.throws(() => beginMerge(merging, { ...WANTED, name: 'org' }), /lv_is_merging_origin/);
    const before = await sample('05-snapshot');
    assert.throws(
      () => beginMerge(before, { ...WANTED, name: 'snap1', invalid: true }),
      /Unable to merge invalidated snapshot LV vgsnap\/snap1\./,
    );
  });
});

test('what is split off is joined again as it was', async () => {
  const before = await sample('05-snapshot');
  const split = splitSnapshot(before, splittable(before, 'snap2')).after!;
  assert.deepEqual(split.logicalVolumes.find(({ name }) => name === 'snap2')?.status, ['READ', 'WRITE', 'VISIBLE']);
  assert(!split.logicalVolumes.some(({ name }) => name === 'snapshot1'));
  const apart = { ...before, vg: split };
  const request = { originName: 'org', cowName: 'snap2', chunkSectors: 128, zero: false, now: 0, hostName: 'h' };
  assert.equal(joinable(apart, request, new Notes(String)).name, 'snap2');
  const joined = joinSnapshot(apart, request);
  // The record has the number that is next.
  const named = joined.after!.logicalVolumes.map((lv) => {
    const [first] = lv.segments;
    return first?.type === 'snapshot' && first.cowStore === 'snap2' ? { ...lv, name: 'snapshot1' } : lv;
  });
  assert.deepEqual(changing(named), changing(before.vg.logicalVolumes));
  assert.deepEqual(joined.effects, []);
  const [effect] = joinSnapshot(apart, { ...request, zero: true }).effects;
  assert(effect?.kind === 'wipe-lv' && effect.beforeCommit === true);
  assert.equal(effect.zeroBytes, 65_536);
});
