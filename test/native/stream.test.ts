/** Plain calls on plain sockets: what is asked wrongly is refused, and touches nobody's memory. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { openSync, closeSync } from 'node:fs';
import { constants } from 'node:os';
import { describe, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { socketBinding, streamBinding } from '../../src/native/addon.ts';

const { EAGAIN, EBADF, EPIPE } = constants.errno;
const binding = streamBinding();
/** Told of each call of the addon's. */
let wake: (() => void) | null = null;
const seen: number[] = [];
const ready = new Uint32Array(
  binding.streamsOpen(() => {
    for (let i = 1; i <= ready[0]!; i++) seen.push(ready[i]!);
    wake?.();
  }),
);

function pair(): readonly [number, number] {
  const fds = socketBinding().socketPair();
  assert(typeof fds !== 'number');
  const [one, other] = fds;
  const streams = [binding.streamAdd(one), binding.streamAdd(other)] as const;
  closeSync(one);
  closeSync(other);
  assert(streams.every((stream) => stream >= 0));
  return streams;
}

async function until(done: () => boolean): Promise<void> {
  while (!done()) {
    const { promise, resolve } = Promise.withResolvers<void>();
    wake = resolve;
    await promise;
  }
}

describe('plain sockets', () => {
  test('bytes go from one end to the other, into the range that was named', () => {
    const [one, other] = pair();
    const buffer = Buffer.alloc(8, '.');
    assert.equal(binding.streamReceive(other, buffer, 2, 4), -EAGAIN);
    assert.equal(binding.streamSend(one, Buffer.from('abcdefgh'), 1, 6, false), 6);
    assert.equal(binding.streamReceive(other, buffer, 2, 4), 4);
    assert.equal(buffer.toString(), '..bcde..');
    assert.equal(binding.streamShutdown(one), 0);
    assert.equal(binding.streamReceive(other, buffer, 0, 8), 2);
    assert.equal(binding.streamReceive(other, buffer, 0, 8), 0);
    binding.streamClose(other);
    assert.equal(binding.streamSend(one, buffer, 0, 1, false), -EPIPE);
    binding.streamClose(one);
  });

  test('wrong ranges, sockets and descriptors are refused', () => {
    const [one, other] = pair();
    const buffer = Buffer.alloc(8);
    for (const [at, length] of [
      [0, 9],
      [8, 1],
      [9, 0],
      [0, 0],
      [4, 2 ** 32 - 2],
      [2 ** 32 - 1, 2 ** 32 - 1],
    ] as const) {
      assert.throws(() => binding.streamReceive(one, buffer, at, length), TypeError);
      assert.throws(() => binding.streamSend(one, buffer, at, length, false), TypeError);
    }
    for (const wrong of [1000, 2 ** 32 - 1, other + 1]) {
      assert.throws(() => binding.streamReceive(wrong, buffer, 0, 8), TypeError);
      assert.throws(() => binding.streamWatch(wrong, 1), TypeError);
      assert.throws(() => binding.streamClose(wrong), TypeError);
      assert.throws(() => binding.streamRelease(wrong), TypeError);
    }
    assert.throws(() => binding.streamWatch(one, 4), TypeError);
    assert.equal(binding.streamAdd(1_000_000), -EBADF);
    binding.streamClose(one);
    assert.throws(() => binding.streamClose(one), TypeError);
    binding.streamClose(other);
  });

  test('a file that cannot be watched is no socket', () => {
    const fd = openSync(import.meta.filename, 'r');
    assert(binding.streamAdd(fd) < 0);
    closeSync(fd);
  });

  test('those who are ready are told, as long as they are watched', async () => {
    const [one, other] = pair();
    seen.length = 0;
    binding.streamWatch(one, 2);
    await until(() => seen.length > 0);
    assert.equal(seen[0], (one << 3) | 2);
    binding.streamWatch(one, 1);
    binding.streamSend(other, Buffer.from('x'), 0, 1, false);
    await until(() => seen.at(-1) === ((one << 3) | 1));
    binding.streamWatch(one, 0);
    binding.streamClose(one);
    binding.streamClose(other);
  });

  test('a released descriptor is open, and ours', () => {
    const [one, other] = pair();
    const fd = binding.streamRelease(one);
    const again = binding.streamAdd(fd);
    closeSync(fd);
    assert.equal(binding.streamSend(again, Buffer.from('x'), 0, 1, false), 1);
    assert.equal(binding.streamReceive(other, Buffer.alloc(1), 0, 1), 1);
    binding.streamClose(again);
    binding.streamClose(other);
  });

  test('a thread that ends closes what it had open', async () => {
    const source = `
      const { streamBinding, socketBinding } = await import(${JSON.stringify(new URL('../../src/native/addon.ts', import.meta.url).href)});
      const binding = streamBinding();
      binding.streamsOpen(() => {});
      for (const fd of socketBinding().socketPair()) binding.streamWatch(binding.streamAdd(fd), 1);
      setImmediate(() => process.exit(7));
    `;
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`));
    assert.deepEqual(await once(worker, 'exit'), [7]);
  });
});
