/** The faulty device: each fate, held back and released in chosen order, with contents checked behind its back. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Errno } from '../../src/block/errors.ts';
import { FaultyDevice, type Fate } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { Op } from '../../src/block/request.ts';
import { Batch, pattern, perform, performOk } from './harness.ts';

function make(): { memory: MemoryDevice; faulty: FaultyDevice } {
  const memory = new MemoryDevice({ sizeBytes: 65_536 });
  return { memory, faulty: new FaultyDevice(memory) };
}

const always =
  (fate: Fate): (() => Fate) =>
  () =>
    fate;
const DATA = pattern(4096, 9);

describe('faulty device', () => {
  test('fails what it is told to fail, and nothing else', async () => {
    const { memory, faulty } = make();
    faulty.decide = ({ op }) => (op === Op.write ? { kind: 'fail', errno: Errno.EIO } : { kind: 'pass' });
    assert.equal(await perform(faulty, { op: Op.write, buffer: DATA }), Errno.EIO);
    await performOk(faulty, { op: Op.read, buffer: Buffer.alloc(512) });
    assert(memory.peek(0, 4096).equals(Buffer.alloc(4096)));
    assert.deepEqual(faulty.submitted, [1, 1, 0, 0, 0]);
    await faulty.close();
  });

  test('tears a write', async () => {
    const { memory, faulty } = make();
    faulty.decide = always({ kind: 'torn', bytes: 512, errno: Errno.EIO });
    assert.equal(await perform(faulty, { op: Op.write, buffer: DATA }), Errno.EIO);
    assert(memory.peek(0, 4096).equals(Buffer.concat([DATA.subarray(0, 512), Buffer.alloc(3584)])));
    faulty.decide = always({ kind: 'torn', bytes: 0, errno: 0 });
    await performOk(faulty, { op: Op.write, offset: 8192, buffer: DATA });
    assert(memory.peek(8192, 4096).equals(Buffer.alloc(4096)));
    await faulty.close();
  });

  test('loses a write and says it was done', async () => {
    const { memory, faulty } = make();
    faulty.decide = always({ kind: 'lose' });
    await performOk(faulty, { op: Op.write, buffer: DATA });
    await performOk(faulty, { op: Op.flush });
    assert(memory.peek(0, 4096).equals(Buffer.alloc(4096)));
    await faulty.close();
  });

  test('completes in the order of release', async () => {
    const { faulty } = make();
    faulty.decide = always({ kind: 'hold' });
    const batch = new Batch();
    const requests = [0, 1, 2, 3].map((i) => batch.submit(faulty, { op: Op.write, offset: i * 4096, buffer: DATA }));
    await faulty.whenHeld(4);
    assert.deepEqual(faulty.held, requests);
    for (const i of [2, 0, 3]) faulty.release(requests[i]!);
    faulty.release(requests[1]!, Errno.ETIMEDOUT);
    await batch.done();
    const errors = requests.map(({ error }) => error);
    assert.deepEqual(errors, [0, Errno.ETIMEDOUT, 0, 0]);
    const carriedOut = batch.completed.filter(({ error }) => error === 0);
    assert.deepEqual(carriedOut, [requests[2], requests[0], requests[3]]);
    await faulty.close();
  });

  test('holds a reply back after carrying the request out', async () => {
    const { memory, faulty } = make();
    faulty.decide = always({ kind: 'holdReply' });
    const batch = new Batch();
    batch.submit(faulty, { op: Op.write, buffer: DATA });
    await faulty.whenHeld(1);
    assert(memory.peek(0, 4096).equals(DATA));
    assert.equal(batch.completed.length, 0);
    faulty.releaseAll();
    await batch.done();
    await faulty.close();
  });

  test('closes only when everything was released', async () => {
    const { faulty } = make();
    faulty.decide = always({ kind: 'hold' });
    const batch = new Batch();
    batch.submit(faulty, { op: Op.read, buffer: Buffer.alloc(512) });
    let closed = false;
    const closing = faulty.close().then(() => {
      closed = true;
    });
    await new Promise(setImmediate);
    assert.equal(closed, false);
    faulty.releaseAll(Errno.EIO);
    await closing;
    assert.equal(batch.completed.length, 1);
  });
});
