/** What systemd tells the daemon by the environment, and what the daemon tells it back. */
import assert from 'node:assert/strict';
import { describe, test, type TestContext } from 'node:test';
import { DaemonError } from '../../src/daemon/errors.ts';
import { createLog } from '../../src/daemon/log.ts';
import {
  inheritedSockets,
  reloadingMessage,
  startWatchdog,
  watchdogIntervalMs,
  type Notifier,
} from '../../src/daemon/systemd.ts';

const PID = 4711;
const log = createLog({ level: 'silent', format: 'json' });

/** Numbers and uses of what is handed to us. */
function sockets(env: Record<string, string>): readonly string[] {
  return inheritedSockets({ LISTEN_PID: String(PID), ...env }, PID).map(({ fd, use }) => `${fd} ${use}`);
}

function problem(env: Record<string, string>, pattern: RegExp): void {
  assert.throws(
    () => sockets(env),
    (error) => error instanceof DaemonError && pattern.test(error.message),
  );
}

describe('sockets that were handed over', () => {
  test('their names decide; without one they are for NBD', () => {
    assert.deepEqual(sockets({ LISTEN_FDS: '2', LISTEN_FDNAMES: 'control:nbd' }), ['3 control', '4 nbd']);
    assert.deepEqual(sockets({ LISTEN_FDS: '1' }), ['3 nbd']);
    assert.deepEqual(sockets({ LISTEN_FDS: '2', LISTEN_FDNAMES: 'unknown:unknown' }), ['3 nbd', '4 nbd']);
    assert.deepEqual(sockets({ LISTEN_FDS: '2', LISTEN_FDNAMES: 'orion-lvmd.socket:orion-lvmd-control.socket' }), [
      '3 nbd',
      '4 control',
    ]);
    assert.deepEqual(sockets({ LISTEN_FDS: '0' }), []);
  });

  test('those of another process are not ours', () => {
    assert.deepEqual(inheritedSockets({ LISTEN_PID: '1', LISTEN_FDS: '1' }, PID), []);
    assert.deepEqual(inheritedSockets({ LISTEN_FDS: '1' }, PID), []);
    assert.deepEqual(inheritedSockets({}, PID), []);
  });

  test('what makes no sense is refused by name', () => {
    problem({ LISTEN_FDS: '1', LISTEN_FDNAMES: 'contrl' }, /"contrl" is not allowed.*FileDescriptorName=/);
    problem({ LISTEN_FDS: '2', LISTEN_FDNAMES: 'control:control' }, /two sockets "control"/);
    problem({ LISTEN_FDS: 'many' }, /LISTEN_FDS is "many"/);
  });
});

test('a reload starts with its time', () => {
  const [first, second = ''] = reloadingMessage();
  assert.equal(first, 'RELOADING=1');
  assert.match(second, /^MONOTONIC_USEC=\d+$/);
});

/** Feeds every 10 ms of mocked time while `alive` resolves; gives what was sent so far, and lets time pass. */
function watched(t: TestContext, alive: () => Promise<void>): { sent: string[]; pass: () => Promise<void> } {
  t.mock.timers.enable({ apis: ['setInterval'] });
  const sent: string[] = [];
  const notifier: Notifier = {
    notify: (...assignments) => {
      sent.push(...assignments);
      return Promise.resolve(true);
    },
  };
  const dog = startWatchdog({ env: { WATCHDOG_USEC: '20000' }, pid: PID, notifier, alive, log });
  t.after(() => {
    dog.stop();
  });
  const pass = async (): Promise<void> => {
    t.mock.timers.tick(10);
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { sent, pass };
}

describe('watchdog', () => {
  test('its interval is half of what systemd gives, and only for the process that is meant', () => {
    assert.equal(watchdogIntervalMs({ WATCHDOG_USEC: '30000000', WATCHDOG_PID: String(PID) }, PID), 15_000);
    assert.equal(watchdogIntervalMs({ WATCHDOG_USEC: '30000000' }, PID), 15_000);
    assert.equal(watchdogIntervalMs({ WATCHDOG_USEC: '30000000', WATCHDOG_PID: '1' }, PID), null);
    for (const WATCHDOG_USEC of ['0', '', 'soon', '-5']) assert.equal(watchdogIntervalMs({ WATCHDOG_USEC }, PID), null);
    assert.equal(watchdogIntervalMs({}, PID), null);
  });

  test('is fed while everything answers, and not while something does not', async (t) => {
    let dead = false;
    const { sent, pass } = watched(t, () => (dead ? Promise.reject(new Error('worker 1 is gone')) : Promise.resolve()));
    await pass();
    await pass();
    assert.deepEqual(sent, ['WATCHDOG=1', 'WATCHDOG=1']);
    dead = true;
    await pass();
    assert.equal(sent.length, 2);
    dead = false;
    await pass();
    assert.equal(sent.length, 3);
  });

  test('is not fed by a check that does not end, and checks do not pile up', async (t) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    let checks = 0;
    const { sent, pass } = watched(t, () => {
      checks++;
      return promise;
    });
    for (let i = 0; i < 4; i++) await pass();
    assert.deepEqual([checks, sent], [1, []]);
    resolve();
    await pass();
    assert.deepEqual(sent, ['WATCHDOG=1']);
  });
});
