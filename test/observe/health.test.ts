/** Alerts: raised once, cleared once, and taken to programs and webhooks without anybody waiting for them. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { IoStats } from '../../src/dm/io-stats.ts';
import { AlertSender } from '../../src/observe/alert-sender.ts';
import { FillRates } from '../../src/observe/fill-rates.ts';
import { type Alert, alertOf, HealthMonitor, type HealthView, QUIET_MS } from '../../src/observe/health.ts';
import { MetadataWatch, NO_CHECKSUM } from '../../src/observe/metadata-watch.ts';
import { type GroupNumbers, type Numbers, processNumbers } from '../../src/observe/stats.ts';

const GROUP: GroupNumbers = {
  name: 'vg0',
  extentBytes: 4096,
  extents: 100,
  freeExtents: 50,
  seqno: 1,
  physicalVolumes: 2,
  missingPhysicalVolumes: 0,
  staleCopies: 0,
};

function view(changes: Partial<Numbers> = {}, rest: Partial<HealthView> = {}): HealthView {
  const numbers: Numbers = {
    time: 0,
    startedAt: 0,
    version: '1',
    connections: 0,
    supervisor: processNumbers(),
    workers: [],
    volumes: [],
    devices: [],
    groups: [GROUP],
    snapshots: [],
    clients: [],
    alerts: {},
    ...changes,
  };
  return {
    numbers,
    now: numbers.time,
    complete: true,
    unserved: [],
    invalidSnapshots: [],
    auditProblem: null,
    ...rest,
  };
}

function monitor(): { readonly look: (of: HealthView) => string[] } {
  const health = new HealthMonitor(() => ({
    volumeGroupFull: 90,
    snapshotFull: 80,
    snapshotFullWithin: 600,
    deviceErrors: 2,
  }));
  return { look: (of) => health.look(of).map(({ kind, subject, state }) => `${state} ${kind} ${subject}`) };
}

function withErrors(count: number): Numbers['devices'] {
  const stats = new IoStats();
  for (let i = 0; i < count; i++) {
    stats.started();
    stats.ended(0, 512, 1, 5);
  }
  return [{ path: '/dev/sda', sizeBytes: 1, up: true, io: stats.snapshot() }];
}

/** One snapshot's. */
function store(percent: number, secondsToFull: number | null, valid = true): Partial<Numbers> {
  const sizes = { usedBytes: percent, totalBytes: 100, metadataBytes: 1 };
  const counts = { exceptions: 1, exceptionBytes: 1, copiedBytes: 1, copiedChunks: 1, bytesPerSecond: 1 };
  return { snapshots: [{ name: 'vg0/s', valid, percent, secondsToFull, ...sizes, ...counts }] };
}

describe('health', () => {
  test('a COW store that is nearly full, or will be soon at its rate', () => {
    const { look } = monitor();
    assert.deepEqual(look(view(store(79, null))), []);
    assert.deepEqual(look(view(store(81, 700))), ['raised snapshot-full vg0/s']);
    assert.deepEqual(look(view(store(76, 590))), ['raised snapshot-filling vg0/s']);
    assert.deepEqual(look(view(store(76, 1000))), []);
    assert.deepEqual(look(view(store(74, 1300))), ['cleared snapshot-full vg0/s', 'cleared snapshot-filling vg0/s']);
    assert.deepEqual(look(view(store(100, null, false))), []);
  });

  test('the rate at which a COW store fills up is a mean of some minutes', () => {
    const rates = new FillRates();
    const used = (time: number, usedBytes: number): number => {
      rates.look(time, [{ name: 'vg0/s', usedBytes }]);
      return rates.rateOf('vg0/s');
    };
    assert.equal(used(0, 1000), 0);
    assert.equal(used(10_000, 101_000), 10_000);
    assert.equal(used(20_000, 201_000), 10_000);
    const after = used(30_000, 201_000);
    assert.ok(after > 9000 && after < 10_000, `${after}`);
    for (let time = 40_000; time < 4_000_000; time += 10_000) used(time, 201_000);
    assert.equal(rates.rateOf('vg0/s'), 0);
    // Another store by the same name.
    assert.equal(used(5_000_000, 10), 0);
    assert.equal(used(5_001_000, 5010), 5000);
    rates.look(5_002_000, []);
    assert.equal(rates.rateOf('vg0/s'), 0);
  });

  test('a VG that is nearly full, with hysteresis', () => {
    const { look } = monitor();
    const steps = [50, 11, 10, 10, 12, 9, 14, 15, 16, 5];
    const alerts = steps.map((freeExtents) => look(view({ groups: [{ ...GROUP, freeExtents }] })).join());
    const raised = 'raised volume-group-full vg0';
    assert.deepEqual(alerts, ['', '', raised, '', '', '', '', '', 'cleared volume-group-full vg0', raised]);
    assert.deepEqual(look(view({ groups: [] })), ['cleared volume-group-full vg0'], 'it was removed');
  });

  test('failing devices: from a threshold between two looks, until it has been quiet', () => {
    const { look } = monitor();
    assert.deepEqual(look(view({ devices: withErrors(1) })), []);
    assert.deepEqual(look(view({ devices: withErrors(3), time: 1 })), ['raised device-errors /dev/sda']);
    assert.deepEqual(look(view({ devices: withErrors(9), time: QUIET_MS })), []);
    assert.deepEqual(look(view({ devices: withErrors(9), time: 2 * QUIET_MS - 1 })), []);
    assert.deepEqual(look(view({ devices: withErrors(9), time: 2 * QUIET_MS })), ['cleared device-errors /dev/sda']);
    // A worker that was started again counts from 0.
    assert.deepEqual(look(view({ devices: withErrors(2), time: 3 * QUIET_MS })), ['raised device-errors /dev/sda']);
  });

  test('degraded metadata, unserved exports, restarts, and an audit log that fails', () => {
    const { look } = monitor();
    const unserved = [{ name: 'vg0/a', reason: 'the device is gone' }];
    const worker = { index: 1, restarts: 1, volumes: 0, connections: 0, ...processNumbers() };
    const bad = view(
      { groups: [{ ...GROUP, staleCopies: 1, missingPhysicalVolumes: 1 }], workers: [worker] },
      { unserved, auditProblem: 'audit log /x: ENOSPC' },
    );
    const expected = [
      'metadata-degraded vg0',
      'worker-restarted worker 1',
      'export-unserved vg0/a',
      'audit-failed audit log',
    ];
    assert.deepEqual(
      look(bad),
      expected.map((alert) => `raised ${alert}`),
    );
    assert.deepEqual(look(bad), []);
    assert.deepEqual(
      look(view({ workers: [worker] })).toSorted(),
      ['metadata-degraded vg0', 'export-unserved vg0/a', 'audit-failed audit log']
        .map((alert) => `cleared ${alert}`)
        .toSorted(),
    );
    assert.deepEqual(look(view({ workers: [worker], time: QUIET_MS })), ['cleared worker-restarted worker 1']);
  });

  test('a snapshot that became invalid, until it is removed', () => {
    const { look } = monitor();
    const invalidSnapshots = [{ name: 'vg0/s', reason: 'its COW store is full' }];
    assert.deepEqual(look(view({}, { invalidSnapshots })), ['raised snapshot-invalid vg0/s']);
    assert.deepEqual(look(view({}, { invalidSnapshots })), []);
    assert.deepEqual(look(view()), ['cleared snapshot-invalid vg0/s']);
  });

  test('what a worker that is being started again does not tell is not over', () => {
    const { look } = monitor();
    const invalidSnapshots = [{ name: 'vg0/t', reason: 'its COW store is full' }];
    const known = { ...store(81, 590), devices: withErrors(9) };
    const raised = [
      'snapshot-full vg0/s',
      'snapshot-filling vg0/s',
      'device-errors /dev/sda',
      'snapshot-invalid vg0/t',
    ];
    assert.deepEqual(
      look(view(known, { invalidSnapshots })),
      raised.map((alert) => `raised ${alert}`),
    );
    assert.deepEqual(look(view({ devices: withErrors(3), time: QUIET_MS - 1 }, { complete: false })), []);
    assert.deepEqual(look(view({ ...known, time: QUIET_MS - 1 }, { invalidSnapshots })), [], 'nor does it come again');
    assert.deepEqual(look(view({ time: QUIET_MS })).toSorted(), raised.map((alert) => `cleared ${alert}`).toSorted());
  });

  test('a clock that is set raises and clears nothing', () => {
    const { look } = monitor();
    assert.deepEqual(look(view({ devices: withErrors(9), time: 0 })), ['raised device-errors /dev/sda']);
    assert.deepEqual(look(view({ devices: withErrors(9), time: 40 * QUIET_MS }, { now: 1 })), []);
    const after = view({ devices: withErrors(9), time: -40 * QUIET_MS }, { now: QUIET_MS });
    assert.deepEqual(look(after), ['cleared device-errors /dev/sda']);
  });

  test('the text says what is wrong', () => {
    const health = new HealthMonitor(() => ({
      volumeGroupFull: 90,
      snapshotFull: 0,
      snapshotFullWithin: 0,
      deviceErrors: 1,
    }));
    const [alert] = health.look(view({ groups: [{ ...GROUP, freeExtents: 3 }], time: 86_400_000 }));
    assert.equal(alert?.text, 'volume group vg0 is 97.0% full: 3 of 100 extents are free');
    assert.equal(alert?.time, '1970-01-02T00:00:00.000Z');
  });
});

type Seen = Parameters<MetadataWatch['compare']>[0][number];

function group(seqno: number, text: string, id = 'u'): Seen {
  return { vg: { name: 'vg0', id, seqno }, rawText: Buffer.from(text) };
}

describe('metadata watch', () => {
  test('tells what others wrote, once; what was announced, what is new and what is gone is no news', () => {
    const watch = new MetadataWatch();
    assert.deepEqual(watch.compare([group(1, 'a')]), []);
    assert.deepEqual(watch.compare([group(1, 'a'), group(9, 'z', 'other')]), []);
    watch.expect([{ id: 'u', seqnoAfter: 2 }]);
    assert.deepEqual(watch.compare([group(1, 'a')]), []);
    assert.deepEqual(watch.compare([group(2, 'b')]), []);
    assert.deepEqual(watch.compare([]), []);
    const [byNumber] = watch.compare([group(3, 'c')]);
    assert.deepEqual([byNumber?.name, byNumber?.expected.seqno, byNumber?.found.seqno], ['vg0', 2, 3]);
    assert.deepEqual(watch.compare([group(3, 'c')]), []);
    const [byText] = watch.compare([group(3, 'd')]);
    assert.notEqual(byText?.expected.checksum, byText?.found.checksum);
    // An old announcement covers nothing later.
    assert.equal(watch.compare([group(2, 'b')]).length, 1);
  });

  test('what the audit log has recorded is what the first look is compared with', () => {
    const watch = new MetadataWatch(new Map([['u', 4]]));
    const [change] = watch.compare([group(5, 'e'), group(9, 'z', 'other')]);
    assert.deepEqual(
      [change?.uuid, change?.expected, change?.found.seqno],
      ['u', { seqno: 4, checksum: NO_CHECKSUM }, 5],
    );
    assert.deepEqual(watch.compare([group(5, 'e')]), []);
    assert.deepEqual(new MetadataWatch(new Map([['u', 5]])).compare([group(5, 'e')]), []);
  });
});

function log(): { readonly lines: string[]; warn(fields: object, message: string): void } {
  const lines: string[] = [];
  return { lines, warn: (fields, message) => void lines.push(`${message} ${JSON.stringify(fields)}`) };
}

async function withServer(
  answer: (request: IncomingMessage, response: ServerResponse) => void,
  body: (url: string) => Promise<void>,
): Promise<void> {
  const server = createServer(answer).listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    await body(`http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

/** Answers with this status, and notes what the alerts are about. */
function collecting(status: number, subjects: string[]): RequestListener {
  return (request, response) => {
    let text = '';
    request.on('data', (chunk: Buffer) => (text += chunk.toString()));
    request.on('end', () => {
      subjects.push((JSON.parse(text) as Alert).subject);
      response.writeHead(status).end();
    });
  };
}

describe('alert sender', () => {
  const ALERT: Alert = alertOf('device-errors', '/dev/sda', 'raised', 'text', 0);

  test('a webhook with a user and a password gets them, and no log does', async () => {
    const seen: string[] = [];
    const answer: RequestListener = (request, response) => {
      seen.push(`${request.method} ${request.url} ${request.headers.authorization}`);
      response.writeHead(seen.length === 1 ? 200 : 500).end();
    };
    await withServer(answer, async (url) => {
      const { lines, ...rest } = log();
      const webhook = url.replace('http://', 'http://us%40er:geheim@');
      const sender = new AlertSender({ command: null, webhook, timeoutMs: 5000, retries: 0 }, rest);
      sender.send(ALERT);
      sender.send(ALERT);
      await sender.close();
      const basic = Buffer.from('us@er:geheim').toString('base64');
      assert.deepEqual(seen, [`POST /hook Basic ${basic}`, `POST /hook Basic ${basic}`]);
      assert.match(lines.join(), /answered with status 500/);
      assert.doesNotMatch(lines.join(), /geheim/);
    });
  });

  test('an alert that would be sent somewhere else as something else is not taken for delivered', async () => {
    const methods: string[] = [];
    const answer: RequestListener = (request, response) => {
      methods.push(request.method ?? '');
      response.writeHead(request.url === '/hook' ? 301 : 200, { Location: '/moved' }).end();
    };
    await withServer(answer, async (url) => {
      const { lines, ...rest } = log();
      const sender = new AlertSender({ command: null, webhook: url, timeoutMs: 5000, retries: 0 }, rest);
      sender.send(ALERT);
      await sender.close();
      assert.deepEqual(methods, ['POST']);
      assert.match(lines.join(), /answered with status 301/);
    });
  });

  test('a program gets the alert on its standard input', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'orion-lvm-alert-'));
    const file = join(folder, 'alert');
    const { lines, ...rest } = log();
    const command = ['/bin/sh', '-c', 'cat > "$1.new" && mv "$1.new" "$1"', 'sh', file];
    const sender = new AlertSender({ command, webhook: null, timeoutMs: 5000, retries: 0 }, rest);
    sender.send(ALERT);
    await sender.close();
    assert.deepEqual(JSON.parse(readFileSync(file, 'utf8')), ALERT);
    assert.deepEqual(lines, []);
    rmSync(folder, { recursive: true });
  });

  test('a webhook gets JSON in order, and again after a failure', async () => {
    const bodies: unknown[] = [];
    let failuresLeft = 1;
    await withServer(
      (request, response) => {
        let text = '';
        request.on('data', (chunk: Buffer) => (text += chunk.toString()));
        request.on('end', () => {
          response.statusCode = failuresLeft-- > 0 ? 503 : 204;
          response.end();
          if (response.statusCode === 204) bodies.push((JSON.parse(text) as Alert).subject);
        });
      },
      async (url) => {
        const { lines, ...rest } = log();
        const sender = new AlertSender({ command: null, webhook: url, timeoutMs: 5000, retries: 2 }, rest);
        for (const subject of ['a', 'b', 'c']) sender.send({ ...ALERT, subject });
        while (bodies.length < 3) await new Promise((resolve) => setImmediate(resolve));
        await sender.close();
        assert.deepEqual(bodies, ['a', 'b', 'c']);
        assert.match(lines.join(), /could not be delivered; trying again .*answered with status 503/);
      },
    );
  });

  test('alerts that wait go where a new configuration wants them, each once', async () => {
    const refused: string[] = [];
    const taken: string[] = [];
    await withServer(collecting(503, refused), (old) =>
      withServer(collecting(204, taken), async (webhook) => {
        const { lines, ...rest } = log();
        const target = { command: null, webhook: old, timeoutMs: 5000, retries: 1 };
        const sender = new AlertSender(target, rest);
        for (const subject of ['a', 'b', 'c']) sender.send({ ...ALERT, subject });
        while (lines.length === 0) await new Promise((resolve) => setImmediate(resolve));
        sender.configure({ ...target, webhook });
        while (taken.length < 3) await new Promise((resolve) => setImmediate(resolve));
        assert.deepEqual(refused, ['a']);
        assert.deepEqual(taken, ['a', 'b', 'c']);
        await sender.close();
        assert.equal(lines.length, 1, lines.join());
      }),
    );
  });

  test('a way that is no longer wished is waited for at the end', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'orion-lvm-alert-'));
    const [go, file] = [join(folder, 'go'), join(folder, 'alert.json')];
    const command = ['/bin/sh', '-c', `until test -e ${go}; do :; done; cat >>${file}`];
    const { lines, ...rest } = log();
    const target = { command, webhook: null, timeoutMs: 5000, retries: 0 };
    const sender = new AlertSender(target, rest);
    sender.send(ALERT);
    sender.configure({ ...target, command: null });
    sender.send({ ...ALERT, subject: 'to nobody' });
    const closed = sender.close();
    writeFileSync(go, '');
    await closed;
    assert.deepEqual(JSON.parse(readFileSync(file, 'utf8')), ALERT);
    assert.deepEqual(lines, []);
    rmSync(folder, { recursive: true });
  });

  test('a server that never answers costs nothing but its alerts, and the oldest go first', async () => {
    await withServer(
      () => undefined,
      async (url) => {
        const { lines, ...rest } = log();
        const sender = new AlertSender({ command: null, webhook: url, timeoutMs: 5, retries: 0 }, rest);
        for (let i = 0; i < 102; i++) sender.send({ ...ALERT, subject: String(i) });
        assert.match(lines.join(), /was not delivered .*"subject":"1".*too many alerts wait/);
        while (!lines.some((line) => line.includes('timeout'))) await new Promise((resolve) => setTimeout(resolve, 5));
        await Promise.race([sender.close(), new Promise((resolve) => setTimeout(resolve, 20_000).unref())]);
      },
    );
  });

  test('a program that is missing, fails or hangs is told of', async () => {
    for (const [command, reason] of [
      [['/nonexistent/program'], /ENOENT/],
      [['/bin/sh', '-c', 'exit 7'], /ended with exit code 7/],
      [['/bin/sleep', '100'], /not ready in time/],
    ] as const) {
      const { lines, ...rest } = log();
      const sender = new AlertSender({ command, webhook: null, timeoutMs: 200, retries: 0 }, rest);
      sender.send(ALERT);
      await sender.close();
      assert.match(lines.join(), reason);
    }
  });
});
