/**
 * Alerts about a COW snapshot, through the real daemon: its store fills up, can't be extended, is full, and is gone. What is told is told in
 * all four places: to the program, to the webhook, in the audit log, and by /metrics.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { ControlClient } from '../../src/daemon/client/control-client.ts';
import type { Alert } from '../../src/observe/health.ts';
import { readAudit } from '../../src/observe/audit-verify.ts';
import { startDaemon, waitFor } from '../helpers/daemon.ts';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { CMD, request, WireClient } from '../nbd/wire.ts';

const MIB = 2 ** 20;
const CHUNK = 4096;
const ORIGIN_MIB = 16;
const STORE_MIB = 8;
const SNAPSHOT_ALERTS = ['snapshot-filling', 'snapshot-full', 'snapshot-invalid', 'snapshot-not-extended'];

/** What the webhook and the program are told. */
class Told {
  readonly alerts: Alert[] = [];
  readonly server = createServer((message, response) => {
    let body = '';
    message.on('data', (chunk: Buffer) => (body += chunk.toString()));
    message.on('end', () => {
      this.alerts.push(JSON.parse(body) as Alert);
      response.end();
    });
  });

  async listen(): Promise<string> {
    this.server.listen(0, '127.0.0.1');
    await once(this.server, 'listening');
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}/`;
  }

  has(kind: string, state: 'raised' | 'cleared'): boolean {
    return this.alerts.some((alert) => alert.kind === kind && alert.state === state);
  }

  textOf(kind: string): string {
    return this.alerts.find((alert) => alert.kind === kind && alert.state === 'raised')?.text ?? '';
  }
}

/** A volume that is written chunk by chunk, each of them once. */
class Writer {
  readonly #client: WireClient;
  readonly #payload = Buffer.alloc(CHUNK, 1);
  #next = 0;

  constructor(client: WireClient) {
    this.#client = client;
  }

  async writeTo(bytes: number): Promise<void> {
    while (this.#next < bytes) await this.one();
  }

  async one(): Promise<void> {
    this.#client.send(request({ type: CMD.write, offset: this.#next, payload: this.#payload }));
    assert.equal((await this.#client.reply()).error, 0);
    this.#next += CHUNK;
  }
}

const ofSnapshot = ({ subject }: Pick<Alert, 'subject'>): boolean => subject === 'vg/s';
const line = ({ kind, state }: { readonly kind: string; readonly state: string }): string => `${kind} ${state}`;

test('a snapshot that fills up is told of, until it is gone', { timeout: 60_000 }, async (t) => {
  await withTemporaryFolder(async (folder) => {
    const image = join(folder, 'pv');
    writeFileSync(image, '');
    truncateSync(image, 40 * MIB);
    const [audit, program] = [join(folder, 'audit.log'), join(folder, 'alerts')];
    const env = { ORION_LVM_DEVICES: image, ORION_LVM_CONTROL: '', LVM_SYSTEM_DIR: folder };
    const lvm = (command: string, ...args: readonly string[]): Promise<string> =>
      mustRun(join(CHECKOUT, 'bin', command), args, { cwd: folder, env });
    await lvm('vgcreate', '-s1m', 'vg', image);
    await lvm('lvcreate', '-y', `-L${ORIGIN_MIB}m`, '-n', 'o', 'vg');
    await lvm('lvcreate', '-s', '-c4k', `-L${STORE_MIB}m`, '-n', 's', 'vg/o');
    // Nothing is left to extend it with.
    await lvm('lvcreate', '-y', '-l100%FREE', '-n', 'rest', 'vg');
    writeFileSync(
      join(folder, 'lvm.conf'),
      'activation { snapshot_autoextend_threshold = 60 snapshot_autoextend_percent = 50 }\n',
    );
    const told = new Told();
    t.after(() => {
      told.server.closeAllConnections();
      told.server.close();
    });
    const config = join(folder, 'orion.toml');
    writeFileSync(
      config,
      `[audit]
file = "${audit}"
[events]
interval = 1
snapshot_full = 65
snapshot_full_within = 86400
webhook = "${await told.listen()}"
command = ["/bin/sh", "-c", "cat >> '${program}'"]
`,
    );
    const daemon = await startDaemon([image], ['--config', config, '--workers', '1'], { LVM_SYSTEM_DIR: folder });
    try {
      env.ORION_LVM_CONTROL = join(dirname(daemon.socket), 'control.sock');
      const control = new ControlClient(env.ORION_LVM_CONTROL);
      const sample = async (name: string): Promise<number> => {
        const text = await control.text('/metrics');
        const value = new RegExp(`^orion_lvm_snapshot_${name}\\{[^}]*lv="s"[^}]*\\} (\\S+)$`, 'm').exec(text)?.[1];
        assert.ok(value !== undefined, `${name} in ${text}`);
        return value === '+Inf' ? Infinity : Number(value);
      };
      assert.deepEqual([await sample('valid'), await sample('copied_bytes_total')], [1, 0]);
      assert.equal(await sample('full_in_seconds'), Infinity);

      const client = await WireClient.open(daemon.socket);
      await client.attach('vg/o');
      const writer = new Writer(client);
      const some = 0.7 * STORE_MIB * MIB;
      await writer.writeTo(some);
      assert.ok((await sample('copied_bytes_total')) >= some);
      assert.ok((await sample('used_bytes')) > some);
      // A rate takes two looks between which something was written.
      await waitFor('that it fills up', async () => {
        if (told.has('snapshot-filling', 'raised')) return true;
        await writer.one();
        return false;
      });
      assert.match(told.textOf('snapshot-filling'), /^the store of snapshot vg\/s will be full in \d+ s at /);
      assert.ok((await sample('fill_bytes_per_second')) > 0 && Number.isFinite(await sample('full_in_seconds')));
      await waitFor('that it is full', () => told.has('snapshot-full', 'raised'));
      assert.match(told.textOf('snapshot-full'), /^the store of snapshot vg\/s is \d\d\.\d% full: /);
      await waitFor('that it could not be extended', () => told.has('snapshot-not-extended', 'raised'));
      assert.match(told.textOf('snapshot-not-extended'), /^the store of snapshot vg\/s is filling up and could not/);

      // The origin's writes go on when it is full.
      await writer.writeTo(ORIGIN_MIB * MIB);
      await waitFor('that it is invalid', () => told.has('snapshot-invalid', 'raised'));
      assert.match(told.textOf('snapshot-invalid'), /^snapshot vg\/s is invalid: .*remove it$/);
      assert.equal(await sample('valid'), 0);
      client.close();

      await lvm('lvremove', '-y', 'vg/s');
      for (const kind of SNAPSHOT_ALERTS) await waitFor(`the end of ${kind}`, () => told.has(kind, 'cleared'));
      assert.doesNotMatch(await control.text('/metrics'), /orion_lvm_snapshot_valid\{/);

      // Each of them once raised and once cleared, and everywhere the same.
      const expected = SNAPSHOT_ALERTS.flatMap((kind) => [`${kind} cleared`, `${kind} raised`]);
      assert.deepEqual(told.alerts.filter(ofSnapshot).map(line).toSorted(), expected);
      const programs = (): Alert[] =>
        readFileSync(program, 'utf8')
          .trim()
          .split('\n')
          .map((text) => JSON.parse(text) as Alert);
      await waitFor('the program', () => programs().filter(ofSnapshot).length >= expected.length);
      assert.deepEqual(programs().filter(ofSnapshot).map(line).toSorted(), expected);
      const records = async (): Promise<readonly string[]> =>
        (await readAudit(audit))
          .flatMap(({ record }) => (record.event === 'alert' && ofSnapshot(record) ? [line(record)] : []))
          .toSorted();
      await waitFor('the audit log', async () => (await records()).length >= expected.length);
      assert.deepEqual(await records(), expected);
    } finally {
      await daemon.stop();
    }
  });
});
