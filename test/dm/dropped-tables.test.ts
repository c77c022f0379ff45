/** Tables that got ready and never went live: what their layers wrote is handed on or given up, before the extents are somebody else's. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { BlockCache } from '../../src/block/cache/block-cache.ts';
import { Errno } from '../../src/block/errors.ts';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { Op } from '../../src/block/request.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { pattern, perform, performOk, readAt } from '../block/harness.ts';
import { linear } from './devices.ts';

const MIB = 2 ** 20;
const SECTORS = 128;
const STORE_SECTOR = 1024;
const STORE_BYTE = STORE_SECTOR * 512;

for (const end of ['clear', 'close'] as const) {
  test(`a snapshot whose store could not be made leaves nothing that is written later (${end})`, async () => {
    const below = new MemoryDevice({ sizeBytes: 4 * MIB });
    const faulty = new FaultyDevice(below);
    const cache = new BlockCache({ sizeBytes: MIB, policy: 'writeback', scheduler: 'none' });
    const device = cache.attach(faulty);
    const volume = new Volume('vg/s', { targets });
    const params = {
      origin: { name: 'vg/o', table: [linear(0, SECTORS, 'a', 0)] },
      originId: `dropped ${end}`,
      cow: { name: 'vg/s-cow', table: [linear(0, SECTORS, 'a', STORE_SECTOR)] },
      cowId: `store of dropped ${end}`,
      persistent: 'P',
      chunkSize: 8,
    };
    volume.load([{ start: 0, length: SECTORS, target: 'snapshot', params }], () => device);
    faulty.decide = ({ op }) => (op === Op.write ? { kind: 'fail', errno: Errno.EIO } : { kind: 'pass' });
    await volume.prepare();
    // It is not to be, and the extents are another's, who writes to them from elsewhere.
    await volume[end]();
    faulty.decide = () => ({ kind: 'pass' });
    await performOk(below, { op: Op.write, offset: STORE_BYTE, buffer: pattern(64 * 1024, 7) });
    await perform(device, { op: Op.flush });
    await performOk(device, { op: Op.flush });
    assert(pattern(64 * 1024, 7).equals(await readAt(below, STORE_BYTE, 64 * 1024)), 'it was overwritten');
    await device.close();
  });
}

test('a snapshot whose store hangs while it is made has ended when what was on its way has', async () => {
  const store = new FaultyDevice(new MemoryDevice({ name: 'b', sizeBytes: MIB }));
  const origin = new MemoryDevice({ name: 'a', sizeBytes: MIB });
  const volume = new Volume('vg/s', { targets });
  const params = {
    origin: { name: 'vg/o', table: [linear(0, SECTORS, 'a', 0)] },
    originId: 'dropped while it hangs',
    cow: { name: 'vg/s-cow', table: [linear(0, SECTORS, 'b', 0)] },
    cowId: 'store of dropped while it hangs',
    persistent: 'P',
    chunkSize: 8,
  };
  volume.load([{ start: 0, length: SECTORS, target: 'snapshot', params }], (name) => (name === 'a' ? origin : store));
  store.decide = () => ({ kind: 'hold' });
  const prepared = Promise.allSettled([volume.prepare()]);
  await store.whenHeld(1);
  const ended: string[] = [];
  const cleared = volume.clear().then(() => ended.push('clear'));
  const closed = volume.close().then(() => ended.push('close'));
  await nextTurn();
  assert.deepEqual(ended, []);
  store.decide = () => ({ kind: 'pass' });
  const asked = store.submitted[Op.write];
  store.releaseAll();
  await Promise.all([cleared, closed, prepared]);
  assert.equal(store.submitted[Op.write], asked, 'more was written');
});
