/**
 * SIGUSR2 while a webhook hangs: no client waits for what is to be delivered, and nothing of it is lost. The process that is replaced
 * delivers it after its clients are served elsewhere, holding nothing that somebody else may want.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readdirSync, readlinkSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type RequestListener, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { Alert } from '../../src/observe/health.ts';
import { readAudit, verifyAudit } from '../../src/observe/audit-verify.ts';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { handOver, pidOf, stopLast } from '../helpers/hand-over.ts';
import { CMD, request, WireClient } from '../nbd/wire.ts';
import { TestGroup } from './images.ts';

/** Files that a process has open. */
function heldBy(pid: number): readonly string[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/${pid}/fd/${fd}`)];
    } catch {
      // It was closed meanwhile.
      return [];
    }
  });
}

/** A daemon on volume groups with these names, of which each is fuller than it is to be; its webhook, and a client of `vg/one`. */
async function standWith(
  t: TestContext,
  names: readonly string[],
  answer: RequestListener,
): Promise<{
  readonly daemon: RunningDaemon;
  readonly client: WireClient;
  readonly audit: string;
  /** From the next process on there is nothing to tell. */
  readonly calm: () => Promise<void>;
}> {
  const folder = await mkdtemp(join(tmpdir(), 'orion-lvm-alerts-'));
  const webhook = createServer(answer).listen(0, '127.0.0.1');
  await once(webhook, 'listening');
  const volumes = [{ name: 'one', extent: 0, extents: 30 }];
  const groups = names.map((name) => new TestGroup(join(folder, `${name}.img`), name).write(volumes));
  const devices = (await Promise.all(groups)).map(({ path }) => path);
  const [config, audit] = ['lvm.toml', 'audit.log'].map((name) => join(folder, name));
  assert.ok(config !== undefined && audit !== undefined);
  const configure = (fullness: number): Promise<void> =>
    writeFile(
      config,
      `[audit]
file = "${audit}"
[events]
interval = 1
timeout = 600
volume_group_full = ${fullness}
webhook = "http://127.0.0.1:${(webhook.address() as AddressInfo).port}/"
`,
    );
  await configure(50);
  const daemon = await startDaemon(devices, ['--config', config, '--workers', '1']);
  t.after(async () => {
    webhook.closeAllConnections();
    webhook.close();
    await stopLast(daemon);
    await daemon.stop();
    await rm(folder, { recursive: true, force: true });
  });
  const client = await WireClient.open(daemon.socket);
  t.after(() => client.close());
  await client.attach('vg/one');
  return { daemon, client, audit, calm: () => configure(0) };
}

async function isServed(client: WireClient): Promise<void> {
  client.send(request({ type: CMD.read, length: 512 }));
  assert.equal((await client.reply(512)).error, 0);
}

test('no client waits for a webhook that hangs, and no alert is lost', { timeout: 120_000 }, async (t) => {
  // What happened, in the order in which it did.
  const events: string[] = [];
  const alerts: Alert[] = [];
  const open: ServerResponse[] = [];
  const { daemon, client, audit, calm } = await standWith(t, ['vg', 'vh'], (asked, response) => {
    let body = '';
    asked.on('data', (chunk: Buffer) => (body += chunk.toString()));
    asked.on('end', () => {
      const alert = JSON.parse(body) as Alert;
      alerts.push(alert);
      open.push(response);
      response.once('close', () => events.push(`${response.writableFinished ? 'answered' : 'lost'} ${alert.subject}`));
    });
  });
  await waitFor('the first alert', () => alerts.length === 1);
  await waitFor('the second to wait', () => /volume group vh is/.test(daemon.log()));
  await calm();
  const before = await pidOf(daemon);
  await handOver(daemon);
  await isServed(client);
  events.push('served');
  assert.deepEqual(events, ['served'], `the delivery was ended before clients were served:\n${daemon.log()}`);
  // Whoever comes after the next process finds nothing held by the one before.
  await waitFor('claims and lock to be let go', () => {
    const held = heldBy(before).filter((path) => path.endsWith('.img') || path.endsWith('.lock'));
    return held.length === 0;
  });
  events.push('let go');
  open[0]?.end();
  await waitFor('the alert that waited', () => alerts.length === 2);
  open[1]?.end();
  await waitFor('the end of the process', () => !existsSync(`/proc/${before}`));
  assert.deepEqual(events, ['served', 'let go', 'answered vg', 'answered vh']);
  assert.deepEqual(new Set(alerts.map(({ kind }) => kind)), new Set(['volume-group-full']));
  assert.doesNotMatch(daemon.log(), /an alert was not delivered|an audit record could not be written/);
  client.close();
  await stopLast(daemon);

  // One writer at a time: each has said that it ends before the next one has begun.
  assert.deepEqual((await verifyAudit(audit)).problems, []);
  const told = (await readAudit(audit)).map(({ record }) => record.event);
  assert.deepEqual(
    told.filter((event) => event === 'start' || event === 'stop'),
    ['start', 'stop', 'start', 'stop'],
  );
});

test(
  'told to end while it delivers, the process that was replaced ends, and nobody else',
  { timeout: 120_000 },
  async (t) => {
    let asked = 0;
    const { daemon, client, calm } = await standWith(t, ['vg'], () => asked++);
    await waitFor('the alert', () => asked === 1);
    await calm();
    const ended = once(daemon.child, 'exit');
    await handOver(daemon);
    await waitFor('it to say so', () => daemon.log().includes('handed over: this process ends'));
    daemon.child.kill('SIGTERM');
    daemon.child.kill('SIGINT');
    assert.deepEqual(await ended, [0, null], daemon.log());
    assert.match(daemon.log(), /told to end: alerts that wait are not delivered/);
    assert.equal(asked, 1);
    await isServed(client);
  },
);
