/**
 * The real daemon watched: roles tried with real users, the audit log, refused exports, numbers, metrics, alerts. As root other users
 * are borrowed by setpriv; without root there is only one user to try, who is then given each role in turn.
 */
import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { ControlClient } from '../../src/daemon/client/control-client.ts';
import { readAudit, verifyAudit } from '../../src/observe/audit-verify.ts';
import type { AuditRecord } from '../../src/observe/audit-record.ts';
import type { Alert } from '../../src/observe/health.ts';
import type { Numbers } from '../../src/observe/stats.ts';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { mustRun, type Outcome, runProgram } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';

const ROOT = process.getuid?.() === 0;
const LVM = join(CHECKOUT, 'bin/orion-lvm');
/** nbdsh is a program of the system's Python. */
const SYSTEM_PATH = `/usr/bin:${process.env['PATH'] ?? ''}`;
/** Numbers that no account has. */
const [OBSERVER, OPERATOR, STRANGER, GROUP] = [61_001, 61_002, 61_003, 62_002];

let folder = '';
let audit = '';
let config = '';
let devices: readonly string[] = [];
let daemon: RunningDaemon;
let control = '';
const alerts: Alert[] = [];
const webhook = createServer((request, response) => {
  let body = '';
  request.on('data', (chunk: Buffer) => (body += chunk.toString()));
  request.on('end', () => {
    alerts.push(JSON.parse(body) as Alert);
    response.end();
  });
});

/** Runs a program as another user, in groups of his. */
function as(uid: number, groups: readonly number[], command: string, args: readonly string[]): Promise<Outcome> {
  const ids = [`--reuid=${uid}`, `--regid=${uid}`];
  const more = groups.length === 0 ? ['--clear-groups'] : [`--groups=${groups.join(',')}`];
  return runProgram('setpriv', [...ids, ...more, '--inh-caps=-all', command, ...args], {
    cwd: '/',
    env: { ORION_LVM_CONTROL: control, HOME: '/', XDG_CACHE_HOME: folder, PATH: SYSTEM_PATH },
  });
}

function lvm(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  return runProgram(LVM, args, { cwd: folder, env: { ORION_LVM_CONTROL: control, ...env } });
}

async function records(event: AuditRecord['event']): Promise<AuditRecord[]> {
  return (await readAudit(audit)).map(({ record }) => record).filter((record) => record.event === event);
}

async function numbers(): Promise<Numbers> {
  const { status, stdout, stderr } = await lvm(['status', '--reportformat', 'json']);
  assert.equal(status, 0, stderr);
  return (JSON.parse(stdout) as { numbers: Numbers }).numbers;
}

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'orion-lvm-observed-'));
  chmodSync(folder, 0o755);
  audit = join(folder, 'audit.log');
  config = join(folder, 'lvm.toml');
  devices = ['a.img', 'b.img'].map((name) => join(folder, name));
  for (const path of devices) {
    writeFileSync(path, '');
    truncateSync(path, 32 * 2 ** 20);
  }
  const offline = { env: { ORION_LVM_CONTROL: '' } };
  await mustRun(LVM, ['vgcreate', '--devices', devices.join(','), 'vg0', ...devices], offline);
  await mustRun(LVM, ['lvcreate', '--devices', devices.join(','), '-y', '-n', 'data', '-l', '4', 'vg0'], offline);
  webhook.listen(0, '127.0.0.1');
  await once(webhook, 'listening');
  writeFileSync(
    config,
    `socket_mode = "0666"
cache_policy = "writeback"
[access]
observers = ["user:${OBSERVER}"]
operators = ["group:${GROUP}"]
[[access.exports]]
volumes = ["vg0/data"]
allow = ["user:${process.getuid?.()}"]
allow_read_only = ["user:${OBSERVER}"]
[audit]
file = "${audit}"
[metrics]
listen = "tcp:127.0.0.1:0"
[events]
interval = 1
volume_group_full = 60
webhook = "http://127.0.0.1:${(webhook.address() as AddressInfo).port}/"
command = ["/bin/sh", "-c", "cat >> '${join(folder, 'alerts')}'"]
`,
  );
  daemon = await startDaemon(devices, ['--config', config, '--workers', '1']);
  control = join(dirname(daemon.socket), 'control.sock');
  chmodSync(dirname(daemon.socket), 0o755);
});

after(async () => {
  await daemon.stop();
  webhook.closeAllConnections();
  webhook.close();
  await rm(folder, { recursive: true, force: true });
});

function metricNames(text: string): string[] {
  return [...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name ?? '');
}

describe('the watched daemon', { concurrency: false }, () => {
  test('says at its start what has no effect', () => {
    assert.match(daemon.log(), /cache_policy has no effect/);
    assert.equal(statSync(control).mode & 0o777, 0o666);
  });

  test('users have the commands of their roles, and no others; each refusal is a record', async () => {
    const tried: readonly (readonly [number, readonly number[], readonly string[], RegExp | null])[] = [
      [OBSERVER, [], ['lvs', '--noheadings', '-o', 'lv_name'], null],
      [OBSERVER, [], ['lvcreate', '-n', 'x', '-l1', 'vg0'], /lvcreate needs the role operator, yours is observer/],
      [OBSERVER, [], ['attach', 'vg0/x'], /attach needs the role operator, yours is observer/],
      [OPERATOR, [GROUP], ['lvcreate', '-y', '-n', 'x', '-l1', 'vg0'], null],
      [OPERATOR, [], ['lvs'], /lvs is refused: your user has no role here/],
      [OPERATOR, [GROUP], ['lvremove', '-y', 'vg0/x'], /lvremove needs the role administrator, yours is operator/],
      [OPERATOR, [GROUP], ['lvs', '--devicesf=x'], /--devicesfile needs the role administrator/],
      [STRANGER, [], ['status'], /your user has no role|needs the role observer/],
    ];
    for (const [uid, groups, args, refusal] of ROOT ? tried : []) {
      const { status, stderr } = await as(uid, groups, LVM, args);
      assert.equal(status, refusal === null ? 0 : 5, `${uid} ${args.join(' ')}: ${stderr}`);
      if (refusal !== null) assert.match(stderr, refusal);
    }
    if (!ROOT) assert.equal((await lvm(['lvcreate', '-y', '-n', 'x', '-l1', 'vg0'])).status, 0);
    const refused = (await records('refused')).flatMap((record) => (record.event === 'refused' ? [record] : []));
    const expected = ROOT ? tried.filter(([, , , refusal]) => refusal !== null) : [];
    assert.deepEqual(
      refused.map(({ who }) => who?.uid),
      expected.map(([uid]) => uid),
    );
    for (const { from, who } of refused) {
      assert.match(from, /^unix \/.*node$/);
      assert.ok((who?.pid ?? 0) > 0);
    }
    const [created] = await records('command');
    assert.ok(created?.event === 'command');
    assert.deepEqual(created.argv.slice(0, 2), ['lvcreate', '-y']);
    assert.equal(created.exitCode, 0);
    assert.deepEqual(
      created.groups.map(({ name, seqnoBefore, seqnoAfter }) => [name, seqnoBefore, seqnoAfter]),
      [['vg0', 2, 3]],
    );
    assert.equal(created.who.uid, ROOT ? OPERATOR : process.getuid?.());
  });

  test('NBD clients see and open what the rules allow', async () => {
    const own = await mustRun('nbdinfo', ['--json', daemon.uri('vg0/data')]);
    assert.match(own, /"is_read_only": false/);
    if (!ROOT) return;
    const reader = await as(OBSERVER, [], 'nbdinfo', ['--json', daemon.uri('vg0/data')]);
    assert.match(reader.stdout, /"is_read_only": true/);
    const listed = await as(STRANGER, [], 'nbdinfo', ['--list', '--json', daemon.uri('')]);
    assert.ok(!listed.stdout.includes('vg0/data') && listed.stdout.includes('vg0/x'), listed.stdout);
    const stranger = await as(STRANGER, [], 'nbdinfo', [daemon.uri('vg0/data')]);
    assert.notEqual(stranger.status, 0);
    let refused: readonly AuditRecord[] = [];
    await waitFor('the record', async () => {
      refused = (await records('refused')).filter(
        (record) => record.event === 'refused' && record.what[0] === 'NBD export',
      );
      return refused.length > 0;
    });
    assert.deepEqual(
      refused.map((record) => record.event === 'refused' && [record.who?.uid, record.what[1], record.reason]),
      [[STRANGER, 'vg0/data', `vg0/data is not open to user ${STRANGER}`]],
    );
    // A client that was shown a read-only export can't write to it, whatever it sends.
    const connect = `h.set_strict_mode(0); h.connect_uri("${daemon.uri('vg0/data')}"); h.pread(512, 0)`;
    const written = await as(OBSERVER, [], '/usr/bin/nbdsh', ['-c', connect, '-c', 'h.pwrite(b"x" * 512, 0)']);
    assert.match(written.stderr, /pwrite.*Operation not permitted/s);
  });

  test('counts what is read and written', async () => {
    const script = ['-c', 'h.pwrite(b"x" * 65536, 0)', '-c', 'h.pread(4096, 0)', '-c', 'h.flush()'];
    await mustRun('/usr/bin/nbdsh', ['-u', daemon.uri('vg0/data'), ...script], { env: { PATH: SYSTEM_PATH } });
    const { volumes, devices: counted, groups, workers } = await numbers();
    const io = volumes.find(({ name }) => name === 'vg0/data')?.io;
    assert.ok(
      (io?.ops.write.bytes ?? 0) >= 65_536 && (io?.ops.read.ended ?? 0) >= 1 && (io?.ops.flush.ended ?? 0) >= 1,
    );
    assert.equal(io?.inFlight, 0);
    const written = counted.map((device) => device.io?.ops.write.bytes ?? 0);
    assert.ok(Math.max(...written) >= 65_536, String(written));
    assert.equal(groups[0]?.name, 'vg0');
    assert.equal(workers.length, 1);
  });

  test('metrics on the control socket and on TCP are the same', async () => {
    const port = /"?port"?[:=](\d+).*metrics on TCP/.exec(daemon.log())?.[1];
    const response = await fetch(`http://127.0.0.1:${port}/metrics`);
    const text = await response.text();
    assert.match(text, /^orion_lvm_lv_bytes_total\{vg="vg0",lv="data",op="write"\} \d+$/m);
    assert.equal((await fetch(`http://127.0.0.1:${port}/v1/status`)).status, 404);
    const own = await new ControlClient(control).text('/metrics');
    assert.deepEqual(metricNames(own), metricNames(text));
  });

  test('status and top print tables', async () => {
    const status = await lvm(['status']);
    assert.match(status.stdout, /vg0\/data +active +16.0M +rw/);
    assert.match(status.stdout, /worker 0/);
    const top = await lvm(['top', '--interval', '0.2']);
    assert.match(top.stdout, /^Volume +Read\/s/m);
  });

  test('top in a dumb terminal is one picture, without sequences that it would print', async () => {
    const orion = join(CHECKOUT, 'bin/orion-lvm');
    const args = ['-qec', `TERM=dumb ORION_LVM_CONTROL=${control} ${orion} top --interval 0.2`, '/dev/null'];
    const { status, stdout } = await runProgram('script', args, { input: '' });
    assert.equal(status, 0);
    assert.match(stdout, /^orion-lvmd .* volumes? served/m);
    assert.ok(!stdout.includes('\x1b'), JSON.stringify(stdout));
  });

  test('a VG that becomes full is an alert: in the log, in the audit log, to the program and the webhook', async () => {
    assert.equal((await lvm(['lvcreate', '-y', '-n', 'fill', '-l', '6', 'vg0'])).status, 0);
    await waitFor('the alert', () => alerts.length > 0);
    assert.equal(alerts[0]?.kind, 'volume-group-full');
    assert.match(alerts[0]?.text ?? '', /^volume group vg0 is 78.6% full: 3 of 14 extents are free$/);
    await waitFor('the program', () => existsSync(join(folder, 'alerts')));
    const written = readFileSync(join(folder, 'alerts'), 'utf8').trim().split('\n');
    assert.equal((JSON.parse(written[0] ?? '') as Alert).subject, 'vg0');
    const [alert] = await records('alert');
    assert.ok(alert?.event === 'alert' && alert.state === 'raised');
    assert.match(daemon.log(), /volume group vg0 is 78.6% full/);
    assert.equal((await lvm(['lvremove', '-y', 'vg0/fill'])).status, 0);
    await waitFor('the end of the alert', () => alerts.some(({ state }) => state === 'cleared'));
  });

  test('what our own commands write is no foreign change, what others write is', async () => {
    assert.deepEqual(await records('metadata-changed'), []);
    // Behind the daemon's back: its claim on the files is advisory, and this command ignores it.
    const copies = join(folder, 'copies');
    mkdirSync(copies);
    await Promise.all(devices.map((path) => mustRun('cp', [path, copies])));
    const copied = ['a.img', 'b.img'].map((name) => join(copies, name));
    const offline = { env: { ORION_LVM_CONTROL: '' } };
    await mustRun(LVM, ['vgchange', '--devices', copied.join(','), '--addtag', 'foreign', 'vg0'], offline);
    await Promise.all(
      copied.map((path, i) =>
        mustRun('dd', [`if=${path}`, `of=${devices[i]}`, 'bs=1M', 'count=1', 'conv=notrunc', 'status=none']),
      ),
    );
    await new ControlClient(control).request('POST', '/v1/rescan');
    await waitFor('the record', async () => (await records('metadata-changed')).length > 0);
    const [changed] = await records('metadata-changed');
    assert.ok(changed?.event === 'metadata-changed');
    assert.equal(changed.name, 'vg0');
    assert.equal(changed.found.seqno, changed.expected.seqno + 1);
    await waitFor('the alert', () => alerts.some(({ kind }) => kind === 'metadata-changed'));
  });

  test('the log is a whole chain, and begins and ends with the daemon', async () => {
    assert.equal(await daemon.stop(), 0);
    const { problems, records: count } = await verifyAudit(audit);
    assert.deepEqual(problems, []);
    const all = (await readAudit(audit)).map(({ record }) => record);
    assert.equal(count, all.length);
    assert.deepEqual([all.at(0)?.event, all.at(-1)?.event], ['start', 'stop']);
    const head = [...daemon.log().matchAll(/"head":"(\d+:[0-9a-f]{64})"/g)].at(-1)?.[1] ?? '';
    assert.equal(head.split(':')[0], String(all.at(-1)?.seq));
    const { status, stdout } = await lvm(['audit', 'verify', '--head', head, audit]);
    assert.equal(status, 0, stdout);
  });
});
