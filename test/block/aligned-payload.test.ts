/** Payloads in aligned memory go to devices past the page cache as they are: nothing of the memory that others go through is used. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { sharedAlignedMemory } from '../../src/block/aligned-memory.ts';
import { DeadlineDevice } from '../../src/block/deadline.ts';
import type { BlockDevice } from '../../src/block/device.ts';
import { openBlockDevice } from '../../src/block/open.ts';
import { IoRequest, Op } from '../../src/block/request.ts';
import { pageBuffer } from '../../src/native/addon.ts';
import { temporaryFile, temporaryLoop } from './harness.ts';

const BYTES = 512 * 1024;
const OFFSET = 65_536;

function transfer(device: BlockDevice, op: Op, buffer: Buffer, aligned: boolean): Promise<void> {
  return new Promise((resolve) => {
    const request = new IoRequest();
    request.op = op;
    request.offset = OFFSET;
    request.length = BYTES;
    request.buffer = buffer;
    request.bufferOffset = buffer.length - BYTES;
    request.aligned = aligned;
    request.owner = {
      ioDone: () => {
        assert.equal(request.error, 0);
        resolve();
      },
    };
    device.submit(request);
  });
}

describe('payloads in aligned memory', () => {
  for (const engine of ['threads', 'uring'] as const) {
    for (const make of [temporaryFile, temporaryLoop]) {
      test(`are not copied: ${make === temporaryFile ? 'a file' : 'a loop device'}, ${engine}`, async (t) => {
        const made = await make(2 ** 20);
        const opened = await openBlockDevice(made.path, { engine, direct: true, exclusive: true });
        const device = new DeadlineDevice(opened);
        const acquire = t.mock.method(sharedAlignedMemory(), 'acquire');
        const written = pageBuffer(BYTES + 4096).fill(engine === 'uring' ? 0x5a : 0xa5);
        written.fill('at the end', BYTES);
        await transfer(device, Op.write, written, true);
        const read = pageBuffer(BYTES);
        await transfer(device, Op.read, read, true);
        assert.ok(read.equals(written.subarray(4096)));
        assert.equal(acquire.mock.callCount(), 0);
        // What is somewhere else, is.
        const unaligned = Buffer.alloc(BYTES + 7);
        await transfer(device, Op.read, unaligned, false);
        assert.ok(unaligned.subarray(7).equals(read));
        assert.equal(acquire.mock.callCount(), 1);
        await device.close();
        await made.dispose();
      });
    }
  }
});
