/**
 * What was agreed on with clients, and what is counted of them, through a hand-over to the next process of the daemon (SIGUSR2): extended
 * headers, contexts, half of a request, max_connections and the exclusive writer.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { startDaemon, waitFor } from '../helpers/daemon.ts';
import { mustRun } from '../helpers/run.ts';
import { type Answer, chunks, clientFlags, CMD, ERR, extendedRequest, option, query, WireClient } from '../nbd/wire.ts';
import { TestGroup } from './images.ts';
import { exportOf, statusOf, waitForStatus } from './status-of.ts';

const CONFIG = `
[[exports]]
volumes = ["vg/one"]
max_connections = 1
[[exports]]
volumes = ["vg/two"]
exclusive_writer = true
`;

/** SET_META_CONTEXT's payload for one context. */
function context(exportName: string, name: string): Buffer {
  const bytes = Buffer.alloc(12 + exportName.length + name.length);
  let at = bytes.writeUInt32BE(exportName.length, 0);
  at += bytes.write(exportName, at);
  at = bytes.writeUInt32BE(1, at);
  at = bytes.writeUInt32BE(name.length, at);
  bytes.write(name, at);
  return bytes;
}

/** A client with extended headers and the segment context. */
async function extended(socket: string, exportName: string): Promise<WireClient> {
  const client = await WireClient.open(socket);
  await client.take(18);
  client.send(
    clientFlags(),
    option(11),
    option(10, context(exportName, 'x-orion:segment')),
    option(7, query(exportName)),
  );
  for (let acknowledged = 0; acknowledged < 3;) {
    const { type, payload } = await client.optionReply();
    assert.ok(type < 2 ** 31, payload.toString());
    if (type === 1) acknowledged++;
  }
  return client;
}

async function answer(client: WireClient): Promise<Answer> {
  const header = await client.take(32);
  const payload = await client.take(Number(header.readBigUInt64BE(24)));
  const [only] = chunks(Buffer.concat([header, payload]), 'extended');
  assert(only !== undefined);
  return only;
}

for (const workers of ['0', '1']) {
  test(`a hand-over keeps what was agreed on and counted, --workers ${workers}`, async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'orion-lvm-exports-handover-'));
    const config = join(folder, 'lvm.toml');
    await writeFile(config, CONFIG);
    const volumes = ['one', 'two'].map((name, i) => ({ name, extent: 2 * i, extents: 2 }));
    const group = await new TestGroup(join(folder, 'vg.img'), 'vg').write(volumes);
    const daemon = await startDaemon([group.path], ['--config', config, '--workers', workers]);
    const control = join(dirname(daemon.socket), 'control.sock');
    t.after(async () => {
      if (existsSync(control)) process.kill((await statusOf(daemon)).pid, 'SIGTERM');
      await waitFor('the end of the last process', () => !existsSync(control));
      await daemon.stop();
      await rm(folder, { recursive: true, force: true });
    });
    const one = await extended(daemon.socket, 'vg/one');
    const two = await extended(daemon.socket, 'vg/two');
    const payload = Buffer.alloc(300_000, 'x');
    const write = extendedRequest({ type: CMD.write, cookie: 7n, offset: 512, payload });
    one.send(extendedRequest({ type: CMD.flush }), write.subarray(0, 100_000));
    assert.equal((await answer(one)).kind, 'none');

    const { pid } = await statusOf(daemon);
    process.kill(pid, 'SIGUSR2');
    await waitForStatus(daemon, 'the next process', (status) => status.pid !== pid);

    one.send(write.subarray(100_000));
    assert.deepEqual([(await answer(one)).cookie, (await exportOf(daemon, 'vg/one')).clients], [7n, 1]);
    one.send(extendedRequest({ type: CMD.read, offset: 512, length: payload.length }));
    assert.ok((await answer(one)).data.equals(payload));
    two.send(extendedRequest({ type: CMD.blockStatus, length: 4096 }));
    const { kind, data } = await answer(two);
    assert.deepEqual([kind, Number(data.readBigUInt64BE(16))], ['statusExt', 1_001_001]);

    const late = await WireClient.open(daemon.socket);
    await late.take(18);
    late.send(clientFlags(), option(7, query('vg/one')));
    assert.equal((await late.optionReply()).type, ERR.policy, 'one connection is all there may be');
    late.close();
    assert.deepEqual((await exportOf(daemon, 'vg/two')).writers, [
      `user ${process.getuid?.()}, process ${process.pid}`,
    ]);
    const other = JSON.parse(await mustRun('nbdinfo', ['--json', '--no-content', daemon.uri('vg/two')])) as {
      exports: readonly Record<string, unknown>[];
    };
    assert.equal(other.exports[0]?.['is_read_only'], true);
    one.close();
    two.close();
    await waitForStatus(daemon, 'both to be gone', ({ exports }) => exports.every(({ clients }) => clients === 0));
    (await extended(daemon.socket, 'vg/one')).close();
  });
}
