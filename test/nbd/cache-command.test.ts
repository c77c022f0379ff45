/**
 * CACHE commands beside each other. What they read is kept by a block cache on its way, so it must not mix: with memory that they
 * shared, blocks of one came into the cache as another's, and were served as such.
 */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { BlockCache } from '../../src/block/cache/block-cache.ts';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { BufferPool } from '../../src/nbd/buffer-pool.ts';
import { pattern } from '../block/harness.ts';
import { waitFor } from '../helpers/daemon.ts';
import { makeExport, TestDirectory } from './exports.ts';
import { LocalServer } from './local-server.ts';
import { CMD, request, WireClient } from './wire.ts';

const MIB = 2 ** 20;
const SIZE = 4 * MIB;

test('what two connections CACHE at once is read as it is on the device, and their memory is given back', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'orion-cache-command-'));
  t.after(() => rm(folder, { recursive: true }));
  const memory = new MemoryDevice({ sizeBytes: SIZE, requestAlignment: 512 });
  const bytes = pattern(SIZE, 7);
  memory.poke(0, bytes);
  const slow = new FaultyDevice(memory);
  const device = new BlockCache({
    sizeBytes: 64 * MIB,
    policy: 'writethrough',
    scheduler: 'none',
    readAhead: false,
  }).attach(slow);
  const volume = new Volume('vg/lv', { targets });
  const params = { device: 'memory', offset: 0 };
  volume.load([{ start: 0, length: SIZE / 512, target: 'linear', params }], () => device);
  volume.resume();
  const buffers = new BufferPool({ poison: true });
  const server = new LocalServer({ directory: new TestDirectory([makeExport({ volume })]), buffers });
  const path = join(folder, 'nbd.sock');
  await server.listen({ kind: 'unix', path });
  const clients = [await WireClient.open(path), await WireClient.open(path)];
  for (const client of clients) await client.attach('vg/lv');

  // Both are read before either is told of.
  slow.decide = () => ({ kind: 'holdReply' });
  for (const [i, client] of clients.entries()) {
    client.send(request({ type: CMD.cache, cookie: BigInt(i), offset: (i * SIZE) / 2, length: SIZE / 2 }));
  }
  for (let piece = 0; piece < 4; piece++) {
    await slow.whenHeld(2);
    slow.releaseAll();
  }
  for (const client of clients) assert.equal((await client.reply()).error, 0);

  slow.decide = () => assert.fail('it is in the cache');
  const [reader] = clients;
  assert.ok(reader !== undefined);
  reader.send(request({ type: CMD.read, cookie: 9n, offset: 0, length: SIZE }));
  await reader.take(16);
  assert.ok((await reader.take(SIZE)).equals(bytes));

  // Who leaves in the middle of one gives back what it has, too.
  slow.decide = () => ({ kind: 'hold' });
  device.enter(0, SIZE);
  reader.send(request({ type: CMD.cache, cookie: 10n, offset: 0, length: SIZE }));
  await slow.whenHeld(1);
  for (const client of clients) client.close();
  await waitFor('the other is gone', () => server.connections().length === 1);
  slow.decide = () => ({ kind: 'pass' });
  slow.releaseAll();
  await server.close();
  assert.equal(buffers.outstanding, 0);
  await volume.close();
  await device.close();
});
