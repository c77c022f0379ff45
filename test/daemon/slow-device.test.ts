/**
 * Far more writes in flight than a slow device takes, through the whole daemon: its memory stays within what its settings give, which
 * docs/limits.md adds up, and every byte is right afterwards. The device is a file of a FUSE file system whose server makes writes wait.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { pattern } from '../block/harness.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { SlowFile } from '../helpers/slow-file.ts';
import { CMD, request, WireClient } from '../nbd/wire.ts';

const MIB = 2 ** 20;
/** Each client has 51 MB to write, and sends all of it at once. */
const CLIENTS = 4;
const WRITE_BYTES = 125 * 4096;
const WRITES = 100;
const CACHE_BYTES = 16 * MIB;
/** The least that a daemon can be told. */
const PAYLOAD_BYTES = 64 * MIB;
/** docs/limits.md: an eighth is kept for reuse; aligned memory; the heap, and what sockets brought in part. */
const BOUND_BYTES = PAYLOAD_BYTES * (9 / 8) + 32 * MIB + 32 * MIB;

/** A field of /proc/PID/status, in bytes. */
function memory(pid: number, field: string): number {
  const found = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(found?.[1]) * 1024;
}

function payload(client: number, index: number): Buffer {
  return pattern(WRITE_BYTES, 1 + client * WRITES + index);
}

function offsetOf(client: number, index: number): number {
  return (client * WRITES + index) * WRITE_BYTES;
}

async function writeAll(wire: WireClient, client: number): Promise<void> {
  for (let i = 0; i < WRITES; i++) {
    const write = { type: CMD.write, cookie: BigInt(i), offset: offsetOf(client, i), payload: payload(client, i) };
    wire.send(request(write));
  }
  for (let i = 0; i < WRITES; i++) assert.equal((await wire.reply()).error, 0);
  wire.send(request({ type: CMD.flush }));
  assert.equal((await wire.reply()).error, 0);
}

async function compareAll(wire: WireClient): Promise<void> {
  for (let client = 0; client < CLIENTS; client++) {
    for (let i = 0; i < WRITES; i++) {
      wire.send(request({ type: CMD.read, offset: offsetOf(client, i), length: WRITE_BYTES }));
      const { error, data } = await wire.reply(WRITE_BYTES);
      assert.equal(error, 0);
      assert(payload(client, i).equals(data), `write ${i} of client ${client}`);
    }
  }
}

async function overwhelm(folder: string, policy: string): Promise<void> {
  const image = join(folder, 'pv.img');
  await writeFile(image, '');
  await truncate(image, 256 * MIB);
  const env = { ORION_LVM_DEVICES: image, ORION_LVM_CONTROL: '', LVM_SYSTEM_DIR: folder };
  const must = (command: string, ...args: readonly string[]): Promise<string> =>
    mustRun(join(CHECKOUT, 'bin', command), args, { cwd: folder, env });
  await must('vgcreate', 'vg', image);
  await must('lvcreate', '-Zn', '-Wn', '-L240m', '-nlv', 'vg');
  const config = join(folder, 'lvm.toml');
  const cache = policy === 'none' ? '' : `cache_size = ${CACHE_BYTES}\n`;
  const limits = `[limits]\ntotal_bytes_in_flight = ${PAYLOAD_BYTES}\n`;
  await writeFile(config, `direct = true\ncache_policy = "${policy}"\n${cache}${limits}`);
  const flags = ['--config', config, '--workers', '0'];
  {
    await using file = await SlowFile.mount(image, folder, ['wdelay=5ms']);
    const daemon = await startDaemon([file.path], flags);
    try {
      const { pid = 0 } = daemon.child;
      const wires = await Promise.all(Array.from({ length: CLIENTS }, () => WireClient.open(daemon.socket)));
      for (const wire of wires) await wire.attach('vg/lv');
      const before = memory(pid, 'VmRSS');
      await Promise.all(wires.map((wire, client) => writeAll(wire, client)));
      const grown = memory(pid, 'VmHWM') - before;
      // With the cache comes its staging memory.
      const bound = BOUND_BYTES + (policy === 'none' ? 0 : CACHE_BYTES + 17 * MIB);
      assert(
        grown < bound,
        `${Math.round(grown / MIB)} MiB more than before, and ${Math.round(bound / MIB)} are allowed`,
      );
      await compareAll(wires[0]!);
      for (const wire of wires) wire.close();
    } finally {
      await daemon.stop();
    }
  }
  // What is on the device, by a daemon that has no cache.
  const daemon = await startDaemon([image]);
  const wire = await WireClient.open(daemon.socket);
  await wire.attach('vg/lv');
  await compareAll(wire);
  wire.close();
  await daemon.stop();
}

describe('200 MB of writes at once against a slow device', () => {
  for (const policy of ['none', 'writethrough', 'writeback']) {
    test(`cost bounded memory and no byte (${policy})`, { timeout: 120_000 }, async () => {
      await withTemporaryFolder((folder) => overwhelm(folder, policy));
    });
  }
});
