/** audit, status and top: what they say of a log and of a daemon, and what of one that isn't there. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { StreamOutput } from '../../src/cli/messages.ts';
import { run } from '../../src/cli/run.ts';
import { topShot } from '../../src/cli/top/shot.ts';
import { shortBytes, shortDuration, shortTime, textTable } from '../../src/cli/text-table.ts';
import { IoStats } from '../../src/dm/io-stats.ts';
import { AuditLog } from '../../src/observe/audit.ts';
import { type Numbers, processNumbers } from '../../src/observe/stats.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { NOBODY } from '../helpers/terminal.ts';

const NO_DAEMON = { ORION_LVM_CONTROL: '' };

async function runCommand(
  argv: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<{ readonly code: number; readonly out: string; readonly err: string }> {
  let out = '';
  let err = '';
  const output = new StreamOutput({ write: (text) => (out += text) }, { write: (text) => (err += text) });
  const around = { env: { LVM_SYSTEM_DIR: '/nonexistent', ...env }, cwd: '/', uid: 1000, now: 0, terminal: NOBODY };
  const code = await run(argv, output, around);
  output.flush();
  return { code, out, err };
}

async function withLog(body: (path: string) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const path = join(folder, 'audit.log');
    const log = await AuditLog.open({ path, now: () => new Date(0) });
    await log.append({ event: 'start', pid: 7, version: '1.2.3', text: 'orion-lvmd started' });
    await log.append({
      event: 'command',
      who: { uid: 1000, gid: 1000, pid: 8, user: 'alice' },
      from: 'unix /usr/bin/node',
      argv: ['lvcreate', '-n', 'a b', 'vg0'],
      exitCode: 0,
      groups: [{ name: 'vg0', uuid: 'u', seqnoBefore: 3, seqnoAfter: 4 }],
    });
    await log.append({
      event: 'refused',
      who: null,
      from: 'tcp:10.0.0.1:5',
      what: ['NBD export', 'vg0/a'],
      reason: 'vg0/a is not open to clients at 10.0.0.1',
    });
    await log.close();
    await body(path);
  });
}

describe('audit', () => {
  test('verify says that all is well, with the last record', async () => {
    await withLog(async (path) => {
      const { code, out } = await runCommand(['audit', 'verify', path], NO_DAEMON);
      assert.equal(code, 0);
      assert.match(
        out,
        /^ {2}3 records in .*audit.log, the last one is 3:[0-9a-f]{64}\.\n {2}Every record is what was written/,
      );
    });
  });

  test('verify finds a change and a cut, and exits with 5', async () => {
    await withLog(async (path) => {
      const text = readFileSync(path, 'utf8');
      writeFileSync(path, text.replace('alice', 'mallory'));
      const changed = await runCommand(['audit', 'verify', path], NO_DAEMON);
      assert.equal(changed.code, 5);
      assert.match(changed.err, /audit.log:3: record 2 was changed: record 3 was written after one with the hash/);
      writeFileSync(path, text.split('\n').slice(0, 2).join('\n').concat('\n'));
      const cut = await runCommand(['audit', 'verify', path], NO_DAEMON);
      assert.equal(cut.code, 5);
      assert.match(cut.err, /record 3 is missing at the end: audit.log.head has the number 3/);
    });
  });

  test('--head finds what the files themselves no longer tell', async () => {
    await withLog(async (path) => {
      const hash = 'a'.repeat(64);
      const { code, err } = await runCommand(['audit', 'verify', '--head', `9:${hash}`, path], NO_DAEMON);
      assert.equal(code, 5);
      assert.match(err, /records 4 to 9 are missing at the end: what was noted has the number 9/);
    });
  });

  test('show prints a line for each record', async () => {
    await withLog(async (path) => {
      const { code, out } = await runCommand(['audit', 'show', path], NO_DAEMON);
      assert.equal(code, 0);
      assert.deepEqual(out.trimEnd().split('\n'), [
        '  1 1970-01-01T00:00:00.000Z orion-lvmd started (version 1.2.3, process 7)',
        '  2 1970-01-01T00:00:00.000Z alice(1000)[8] (unix /usr/bin/node) lvcreate -n "a b" vg0: ok, vg0 3 -> 4',
        '  3 1970-01-01T00:00:00.000Z (tcp:10.0.0.1:5) refused "NBD export" vg0/a: vg0/a is not open to clients at 10.0.0.1',
      ]);
      const later = await runCommand(['audit', 'show', '--from', '3', path], NO_DAEMON);
      assert.equal(later.out.split('\n').length, 2);
    });
  });

  for (const [args, expected] of [
    [['audit'], /Please say what to do/],
    [['audit', 'erase', '/x'], /Please say what to do/],
    [['audit', 'verify'], /has no audit.file/],
    [['audit', 'verify', '--head', '7', '/x'], /Invalid argument for --head: 7/],
  ] as const) {
    test(`bad usage: ${args.join(' ')}`, async () => {
      const { code, err } = await runCommand([...args], NO_DAEMON);
      assert.equal(code, 3);
      assert.match(err, expected);
    });
  }

  test('a file that is not there', async () => {
    const { code, err } = await runCommand(['audit', 'verify', '/nonexistent/audit.log'], NO_DAEMON);
    assert.equal(code, 5);
    assert.match(err, /nonexistent\/audit.log: No such file or directory/);
  });
});

describe('without a daemon', () => {
  for (const name of ['status', 'top']) {
    test(`${name} says so`, async () => {
      const { code, err } = await runCommand([name], { ORION_LVM_CONTROL: '/nonexistent/control.sock' });
      assert.equal(code, 5);
      assert.equal(err, '  No orion-lvmd is running: there is no socket /nonexistent/control.sock.\n');
    });
  }
});

function numbers(time: number, busy: IoStats): Numbers {
  const idle = new IoStats();
  return {
    time,
    startedAt: -90_000,
    version: '1.2.3',
    connections: 4,
    supervisor: { ...processNumbers(), cpuUserMs: 0, cpuSystemMs: 0, residentBytes: 2 ** 26 },
    workers: [
      {
        index: 0,
        pid: 9,
        residentBytes: 2 ** 27,
        cpuUserMs: time / 2,
        cpuSystemMs: 0,
        restarts: 0,
        volumes: 2,
        connections: 4,
      },
    ],
    volumes: [
      { name: 'vg0/a-idle', sizeBytes: 1, clients: 0, io: idle.snapshot() },
      { name: 'vg0/busy', sizeBytes: 1, clients: 4, io: busy.snapshot() },
      { name: 'vg0/new', sizeBytes: 1, clients: 0, io: null },
    ],
    devices: [{ path: '/dev/sda', sizeBytes: 1, up: true, io: busy.snapshot() }],
    groups: [],
    snapshots: [],
    clients: [],
    alerts: {},
  };
}

describe('top', () => {
  const busy = new IoStats();
  const before = numbers(0, busy);
  for (let i = 0; i < 200; i++) {
    busy.started();
    busy.ended(i % 2 === 0 ? 0 : 1, 4096, 100, 0);
  }
  busy.started();
  const after = numbers(2000, busy);

  test('rates, latencies and what is in flight, the busiest first', () => {
    const lines = topShot(before, after, { columns: Infinity, rows: Infinity });
    assert.match(lines[0] ?? '', /^orion-lvmd 1.2.3, up 1m, 4 connections, 3 volumes served$/);
    assert.equal(lines[1], 'CPU and memory: supervisor 0% 64.0M, worker 0 50% 128M');
    assert.match(lines[3] ?? '', /^Volume +Read\/s +Write\/s +RdB\/s/);
    assert.equal(lines[4]?.replaceAll(/ +/g, ' '), 'vg0/busy 50 50 200K 200K 0 100us 96us 127us 1 0.0 0');
    assert.match(lines[5] ?? '', /^vg0\/a-idle +0 +0/);
    assert.match(lines.at(-1) ?? '', /^\/dev\/sda +50/);
  });

  test('a small screen keeps both tables and cuts lines', () => {
    const lines = topShot(before, after, { columns: 20, rows: 10 });
    assert.ok(lines.length <= 10 && lines.every((line) => line.length <= 20));
    assert.ok(lines.some((line) => line.startsWith('vg0/busy')) && lines.some((line) => line.startsWith('/dev/sda')));
  });
});

test('sizes, times and tables for people', () => {
  assert.deepEqual([0, 512, 1024, 1536, 2 ** 30, 150 * 2 ** 20, 2 ** 62].map(shortBytes), [
    '0',
    '512',
    '1.0K',
    '1.5K',
    '1.0G',
    '150M',
    '4096P',
  ]);
  assert.deepEqual([0.0004, 0.25, 1.25, 25, 2500].map(shortTime), ['0us', '250us', '1.3ms', '25ms', '2.5s']);
  assert.deepEqual([500, 61_000, 3_700_000, 90_000_000].map(shortDuration), ['0s', '1m', '1h 1m', '1d 1h']);
  assert.deepEqual(
    textTable(
      [{ heading: 'A' }, { heading: 'Long', right: true }],
      [
        ['xyz', '1'],
        ['', '22'],
      ],
    ),
    ['A    Long', 'xyz     1', '       22'],
  );
});
