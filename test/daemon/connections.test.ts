/**
 * Clients that come and go by the thousand leave nothing behind: no descriptor, no memory, no count. A few hundred by default;
 * $ORION_LVM_CYCLES says how many (10000 take about a minute).
 */
import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { startDaemon, waitFor } from '../helpers/daemon.ts';
import { clientFlags, CMD, option, query, request, WireClient } from '../nbd/wire.ts';
import { TestGroup } from './images.ts';
import { statusOf } from './status-of.ts';

const CYCLES = Number(process.env['ORION_LVM_CYCLES'] ?? 400);
const AT_ONCE = 16;
/** So many fill the pools, and have compiled what is run often. */
const WARM_UP = 2000;
/** A heap without room for garbage, and few buffers kept for reuse: growth is what is not let go. */
const SMALL_HEAP = '--max-old-space-size=48 --max-semi-space-size=1';
/** What may come and go between two looks all the same, in KiB for each process. */
const NOISE_KIB = (CYCLES < 5000 ? 32 : 16) * 1024;

async function descriptors(pid: number): Promise<number> {
  return (await readdir(`/proc/${pid}/fd`)).length;
}

async function residentKib(pid: number): Promise<number> {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]);
}

/** The ways in which clients come and go. */
const VISITS: readonly ((client: WireClient) => Promise<void>)[] = [
  // Says nothing at all.
  () => Promise.resolve(),
  async (client) => {
    await client.take(18);
    client.send(clientFlags(), option(3), option(2));
    while ((await client.optionReply()).option !== 2);
  },
  // Chooses, and does not wait for the answer.
  async (client) => {
    await client.take(18);
    client.send(clientFlags(), option(7, query('vg/one')));
  },
  async (client) => {
    await client.attach('vg/two');
    client.send(request({ type: CMD.write, payload: Buffer.alloc(65_536) }), request({ type: CMD.disc }));
    assert.equal((await client.reply()).error, 0);
    await client.rest();
  },
  // Goes in the middle of a payload, with answers under way.
  async (client) => {
    await client.attach('vg/one');
    client.send(request({ type: CMD.read, length: 1 << 20 }), request({ type: CMD.write, length: 65_536 }));
    await client.take(16);
  },
];

for (const workers of ['0', '2']) {
  test(`${CYCLES} clients leave nothing behind (${workers} workers)`, { timeout: 600_000 }, async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'orion-lvm-connections-'));
    t.after(() => rm(folder, { recursive: true, force: true }));
    const one = { name: 'one', extent: 0, extents: 4 };
    const group = await new TestGroup(join(folder, 'vg.img'), 'vg').write([one, { ...one, name: 'two', extent: 4 }]);
    const config = join(folder, 'lvm.toml');
    await writeFile(config, '[limits]\ntotal_bytes_in_flight = 67108864\n');
    const options = process.env['NODE_OPTIONS'];
    process.env['NODE_OPTIONS'] = SMALL_HEAP;
    const args = ['--config', config, '--workers', workers, '--log-level', 'error'];
    const daemon = await startDaemon([group.path], args).finally(() => {
      if (options === undefined) delete process.env['NODE_OPTIONS'];
      else process.env['NODE_OPTIONS'] = options;
    });
    t.after(() => daemon.stop());

    const visit = async (index: number): Promise<void> => {
      const client = await WireClient.open(daemon.socket);
      try {
        await VISITS[index % VISITS.length]?.(client);
      } finally {
        client.close();
      }
    };
    const visits = async (count: number): Promise<void> => {
      let next = 0;
      const visitor = async (): Promise<void> => {
        while (next < count) await visit(next++);
      };
      await Promise.all(Array.from({ length: AT_ONCE }, visitor));
      await waitFor('the last client to be gone', async () => (await statusOf(daemon)).connections === 0);
    };
    const { workers: slots } = await statusOf(daemon);
    const pids = [...new Set([daemon.child.pid ?? 0, ...slots.flatMap(({ pid }) => pid ?? [])])];
    const look = (what: (pid: number) => Promise<number>): Promise<number[]> => Promise.all(pids.map(what));

    await visits(Math.max(WARM_UP, CYCLES / 2));
    const [before, beforeKib] = [await look(descriptors), await look(residentKib)];
    await visits(CYCLES);
    await waitFor('the descriptors to be closed', async () => {
      const now = await look(descriptors);
      return now.every((count, i) => count <= (before[i] ?? 0));
    });
    const afterKib = await look(residentKib);
    const grown = afterKib.map((kib, i) => kib - (beforeKib[i] ?? 0));
    t.diagnostic(`KiB before ${beforeKib.join(', ')}; grown by ${grown.join(', ')}; descriptors ${before.join(', ')}`);
    for (const kib of grown) assert.ok(kib < NOISE_KIB, `grown by ${grown.join(', ')} KiB`);
    for (const { clients } of (await statusOf(daemon)).exports) assert.equal(clients, 0);
    assert.equal(await daemon.stop(), 0, daemon.log());
  });
}
