/** Seeing a merge through that a daemon's volumes do, where the daemon is the first to end it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { beginMerge, endMerge, joinSnapshot } from '../../src/lvm/edit/lv-merge.ts';
import { type LiveStatus, NO_LIVE_VOLUMES, type VolumeId } from '../../src/lvm/live.ts';
import { carryOutMerge } from '../../src/lvm/merge/run.ts';
import { mergesOf } from '../../src/lvm/deferred-merges.ts';
import { relationsOf } from '../../src/lvm/relations.ts';
import { linearLv, Machine, newPv, vgcreatePlan } from '../crash/machine.ts';

const MERGING = { state: 'valid', usedSectors: 64, totalSectors: 240, metadataSectors: 16, merged: false } as const;

/** vg/o, into which vg/s merges. */
async function merging(): Promise<Machine> {
  const machine = Machine.empty(1);
  const plan = vgcreatePlan(machine, [newPv('/disk0')]);
  assert.ok(plan.after !== null);
  const logicalVolumes = [linearLv('o', 'pv0', 0, 24), linearLv('s', 'pv0', 24, 30)];
  const { after } = plan;
  await machine.run(() => ({ ...plan, after: { ...after, logicalVolumes } }));
  const made = { originName: 'o', cowName: 's', chunkSectors: 8, zero: true, now: 0, hostName: 'test' };
  await machine.change((group) => joinSnapshot(group, made));
  await machine.change((group) => beginMerge(group, { name: 's', onlySnapshots: false, invalid: false }).plan);
  return machine;
}

test('who waits for a merge ends when the daemon has removed the snapshot', { timeout: 60_000 }, async () => {
  const machine = await merging();
  const group = await machine.group();
  const [merge] = mergesOf(group!.vg);
  assert.ok(merge !== undefined);
  const { cow, origin } = merge;
  let looks = 0;
  const status = async (): Promise<ReadonlyMap<VolumeId, LiveStatus>> => {
    const facts = { active: true, suspended: false, readOnly: false, openCount: 0, inactiveTable: false } as const;
    if (++looks === 1) return new Map([[origin, { ...facts, id: origin, snapshot: MERGING }]]);
    if (looks === 2) await machine.change((now) => endMerge(now, relationsOf(now.vg).lvs.get('s')!));
    return new Map([[origin, { ...facts, id: origin }]]);
  };
  const context = { ...machine.context, live: { ...NO_LIVE_VOLUMES, present: true, status } };
  assert.equal(await carryOutMerge(context, { vgName: 'vg', cow }, () => {}), 'gone');
});
