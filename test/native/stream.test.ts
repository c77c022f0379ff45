/** Plain calls on plain sockets: what is asked wrongly is refused, and touches nobody's memory. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { execFile } from 'node:child_process';
import { openSync, closeSync, writeSync } from 'node:fs';
import { constants } from 'node:os';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { socketBinding, streamBinding } from '../../src/native/addon.ts';

const run = promisify(execFile);
/** The list's entries in native/stream.c. */
const ENTRIES = 1023;
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

  test('sockets that are closed while a full list is looked at are not told of in the next', async () => {
    const others: number[] = [];
    const streams = Array.from({ length: ENTRIES + 20 }, () => {
      const fds = socketBinding().socketPair();
      assert(typeof fds !== 'number');
      const stream = binding.streamAdd(fds[0]);
      closeSync(fds[0]);
      others.push(fds[1]);
      writeSync(fds[1], 'x');
      binding.streamWatch(stream, 1);
      return stream;
    });
    seen.length = 0;
    let quiet: readonly number[] = [];
    // Called between events: that of the socket for which there was no room is yet to be told.
    const { promise: emptied, resolve } = Promise.withResolvers<void>();
    wake = (): void => {
      wake = null;
      resolve();
      assert.equal(seen.length, ENTRIES);
      for (const stream of streams) binding.streamClose(stream);
      quiet = Array.from({ length: streams.length / 2 }, pair).flat();
      for (const stream of quiet) binding.streamWatch(stream, 1);
    };
    await emptied;
    for (let turns = 0; turns < 3; turns++) await new Promise(setImmediate);
    assert(quiet.some((stream) => streams.includes(stream)));
    assert.deepEqual(
      seen.slice(ENTRIES).filter((entry) => (entry & 7) !== 0),
      [],
    );
    for (const stream of quiet) binding.streamClose(stream);
    for (const fd of others) closeSync(fd);
  });

  test('what is written to the ready list is not believed, and it may be detached', async () => {
    const source = `
      const { streamBinding, socketBinding } = await import(${JSON.stringify(new URL('../../src/native/addon.ts', import.meta.url).href)});
      const binding = streamBinding();
      const told = [];
      const memory = binding.streamsOpen(() => memory.detached || told.push(new Uint32Array(memory).slice(0, 2)));
      const streams = socketBinding().socketPair().map((fd) => binding.streamAdd(fd));
      new Uint32Array(memory).fill(0xffffffff);
      binding.streamWatch(streams[0], 2);
      while (told.length < 2) await new Promise(setImmediate);
      if (told.some(([count, entry]) => count !== 1 || entry !== (streams[0] << 3 | 2))) throw new Error(String(told));
      memory.transfer(8);
      globalThis.gc();
      for (let turns = 0; turns < 5; turns++) await new Promise(setImmediate);
      for (const stream of streams) binding.streamClose(stream);
    `;
    const { stderr } = await run(process.execPath, ['--expose-gc', '--input-type=module', '-e', source]);
    assert.equal(stderr, '');
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
