/** An exchange of tables by a worker: all in one turn, what is left to be flushed afterwards, and all as they were when one is stuck. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { openBlockDevice } from '../../src/block/open.ts';
import { createLog } from '../../src/daemon/log.ts';
import type { DeviceSpec, VolumeSpec } from '../../src/daemon/worker/host.ts';
import { LocalWorker } from '../../src/daemon/worker/local.ts';
import { VolumeError } from '../../src/dm/errors.ts';
import type { Table } from '../../src/dm/table.ts';
import { Volume } from '../../src/dm/volume.ts';
import { DEFAULT_LIMITS } from '../../src/nbd/server.ts';

const SECTORS = 64;

interface Stand {
  readonly worker: LocalWorker;
  /** A part of the device, from a sector on. */
  readonly linear: (offset: number) => Table;
  readonly spec: (name: string, table: Table) => VolumeSpec;
}

async function stand(t: TestContext): Promise<Stand> {
  const folder = await mkdtemp(join(tmpdir(), 'orion-lvm-swap-'));
  const path = join(folder, 'image');
  await writeFile(path, '');
  await truncate(path, 2 ** 20);
  const opened = await openBlockDevice(path);
  const { identity } = opened;
  await opened.close();
  const device: DeviceSpec = { path, identity, generation: 1, readOnly: false, sizeBytes: 2 ** 20 };
  const direct = { otherwise: false, direct: [], buffered: [] };
  const engine = { engine: 'threads' as const, direct, cache: null, scheduler: 'none' as const, busyPoll: 0 };
  const settings = { limits: DEFAULT_LIMITS, engine, logLevel: 'silent', logFormat: 'json' as const };
  const events = {
    connectionClosed: (): void => undefined,
    client: (): Promise<void> => Promise.resolve(),
    flushLost: (): void => undefined,
  };
  const worker = new LocalWorker(settings, createLog({ level: 'silent', format: 'json' }), events);
  t.after(async () => {
    await worker.drain();
    await rm(folder, { recursive: true });
  });
  return {
    worker,
    linear: (offset) => [{ start: 0, length: SECTORS, target: 'linear', params: { device: path, offset } }],
    spec: (name, table) => ({
      id: name,
      name,
      description: '',
      contexts: [],
      table,
      readOnly: false,
      preferredBlockSize: 4096,
      devices: [device],
    }),
  };
}

type Verb = (...words: readonly unknown[]) => unknown;

/** Has each call of a volume's verb go to `instead`, with the verb itself. */
function replace(
  t: TestContext,
  name: 'flush' | 'suspend' | 'resume' | 'prepare' | 'clear',
  instead: (volume: Volume, verb: Verb) => Verb,
): void {
  const verb = Reflect.get(Volume.prototype, name) as Verb;
  t.mock.method(Volume.prototype, name, function (this: Volume, ...words: readonly unknown[]) {
    return instead(this, verb.bind(this))(...words);
  });
}

/** What volumes are asked, in order: "flush NAME", "suspend NAME", "suspend NAME and flush", "resume NAME". */
function recorded(t: TestContext): string[] {
  const log: string[] = [];
  for (const name of ['flush', 'resume', 'suspend'] as const) {
    replace(t, name, (volume, verb) => (...words) => {
      log.push(`${name} ${volume.name}${name === 'suspend' && words[1] !== false ? ' and flush' : ''}`);
      return verb(...words);
    });
  }
  return log;
}

/** Three volumes: `a` and `b` live and with tables to follow, and one that is to begin with them. */
async function twoAndNew(t: TestContext): Promise<Stand> {
  const made = await stand(t);
  const { worker, spec, linear } = made;
  const live = [spec('a', linear(0)), spec('b', linear(64))];
  await worker.load(live);
  await worker.resume(['a', 'b']);
  await worker.load([...live, spec('new', linear(128))]);
  return made;
}

test('all go on in one turn; what was written is flushed before the suspend, and where the devices stay once more after it', async (t) => {
  const { worker } = await twoAndNew(t);
  const log = recorded(t);
  const request = { ids: ['a', 'b'], begin: ['new'], timeoutMs: 10_000, keepsDevices: true };
  const answers = await worker.swap(request);
  assert.deepEqual(
    answers.map(({ id, problem }) => [id, problem]),
    ['a', 'b', 'new'].map((id) => [id, undefined]),
  );
  assert.ok(answers.every((answer) => answer.problem === undefined && answer.suspendedMs !== undefined));
  const begun = ['flush a', 'flush b', 'suspend a', 'suspend b'];
  assert.deepEqual(log, [...begun, 'resume a', 'resume b', 'resume new', 'flush a', 'flush b']);
});

test('where the devices do not stay, the suspend flushes and nothing is left to be done', async (t) => {
  const { worker, spec, linear } = await twoAndNew(t);
  await worker.load([spec('a', linear(192))]);
  const log = recorded(t);
  await worker.swap({ ids: ['a'], begin: [], timeoutMs: 10_000 });
  assert.deepEqual(log, ['flush a', 'suspend a and flush', 'resume a']);
});

test('if one is stuck, all go on with the tables that they had, and nothing new begins', async (t) => {
  const { worker, spec, linear } = await twoAndNew(t);
  await worker.load([spec('a', linear(192))]);
  replace(t, 'suspend', (volume, verb) => (...words) => {
    if (volume.name === 'b') throw new VolumeError('SUSPEND_ABORTED', 'b', 'the suspend was aborted');
    return verb(...words);
  });
  const answers = await worker.swap({ ids: ['a', 'b'], begin: ['new'], timeoutMs: 10_000 });
  assert.ok(answers.length === 2 && answers.every(({ problem }) => /aborted/.test(problem ?? '')));
  const a = await worker.volumeStatus('a');
  assert.deepEqual([a?.state, a?.hasInactiveTable], ['active', false]);
  assert.equal((await worker.volumeStatus('b'))?.state, 'active');
  assert.equal((await worker.volumeStatus('new'))?.state, 'empty');
});

test('while one is flushed for the suspend, the others go on; all of them are suspended when the last one has', async (t) => {
  const { worker } = await twoAndNew(t);
  const slow = Promise.withResolvers<void>();
  const flushed = Promise.withResolvers<void>();
  replace(t, 'flush', (volume, verb) => async (...words) => {
    if (volume.name === 'b') await slow.promise;
    await verb(...words);
    if (volume.name === 'a') flushed.resolve();
  });
  const log = recorded(t);
  const swapped = worker.swap({ ids: ['a', 'b'], begin: [], timeoutMs: 10_000 });
  await flushed.promise;
  await nextTurn();
  assert.deepEqual(log, ['flush a', 'flush b']);
  assert.equal((await worker.volumeStatus('a'))?.state, 'active');
  slow.resolve();
  await swapped;
  assert.deepEqual(log.slice(2, 4), ['suspend a and flush', 'suspend b and flush']);
});

test('if one cannot be flushed in time, none is suspended, and all are told which one it was', async (t) => {
  const { worker } = await twoAndNew(t);
  replace(t, 'flush', (volume, verb) => (...words) => {
    if (volume.name === 'b') throw new VolumeError('SUSPEND_ABORTED', 'b', 'the suspend was aborted');
    return verb(...words);
  });
  const log = recorded(t);
  const answers = await worker.suspend({ ids: ['a', 'b'], timeoutMs: 10_000 });
  assert.ok(answers.length === 2 && answers.every(({ problem }) => problem?.startsWith('b:')));
  assert.deepEqual(log, ['flush a', 'flush b']);
});

test('a suspend that has left something in memory is not enough where the devices do not stay', async (t) => {
  const { worker } = await twoAndNew(t);
  const log = recorded(t);
  await worker.suspend({ ids: ['a'], timeoutMs: 10_000, keepsDevices: true });
  await worker.suspend({ ids: ['a'], timeoutMs: 10_000, keepsDevices: true });
  assert.deepEqual(log, ['flush a', 'suspend a']);
  await worker.suspend({ ids: ['a'], timeoutMs: 10_000 });
  await worker.suspend({ ids: ['a'], timeoutMs: 10_000 });
  await worker.resume(['a']);
  assert.deepEqual(log.slice(2), ['suspend a and flush', 'resume a']);
});

test('a new volume that cannot get ready in time cannot be loaded; the others are', async (t) => {
  const { worker, spec, linear } = await stand(t);
  const asked = Promise.withResolvers<void>();
  replace(t, 'prepare', (volume, verb) => (...words) => {
    if (volume.name !== 'hangs') return verb(...words);
    asked.resolve();
    return new Promise<void>(() => {});
  });
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const isNew = true;
  const loaded = worker.load([
    { ...spec('hangs', linear(0)), isNew },
    { ...spec('new', linear(64)), isNew },
  ]);
  await asked.promise;
  await nextTurn();
  t.mock.timers.tick(20_000);
  const [hangs, other] = await loaded;
  assert.match(hangs?.problem ?? '', /hangs can't get ready: a device that it names does not answer/);
  assert.equal(other?.problem, undefined);
});

test('a clear that does not end goes on behind our back, and the end of the volume waits for it', async (t) => {
  const { worker, spec, linear } = await stand(t);
  await worker.load([spec('new', linear(0))]);
  const hanging = Promise.withResolvers<void>();
  const log: string[] = [];
  replace(t, 'clear', (_, verb) => async (...words) => {
    await hanging.promise;
    await verb(...words);
    log.push('cleared');
  });
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const cleared = worker.clear(['new']);
  await nextTurn();
  t.mock.timers.tick(5000);
  await cleared;
  const retired = worker.retire('new').then(() => log.push('retired'));
  await nextTurn();
  assert.deepEqual(log, []);
  hanging.resolve();
  await retired;
  assert.equal(log.at(-1), 'retired');
  assert.equal(await worker.volumeStatus('new'), null);
});

test("a new description of a volume that has ended meanwhile is nobody's failure", async (t) => {
  const { worker } = await twoAndNew(t);
  await worker.retire('a');
  await worker.describe({ id: 'a', name: 'b', description: '', contexts: [] });
});

test('a worker is not quiet where what was written is lost: who has the volume next would call it durable', async (t) => {
  const { worker, linear, spec } = await stand(t);
  await worker.load([spec('a', linear(0))]);
  await worker.resume(['a']);
  const patience = { workMs: 5000, answerMs: 5000 };
  t.mock.getter(Volume.prototype, 'lostFlushes', () => 5);
  assert.equal(await worker.quiesce(patience), 'what was written to a is lost: its flushes fail');
  t.mock.restoreAll();
  assert.equal((await worker.volumeStatus('a'))?.state, 'active');
  assert.equal(await worker.quiesce(patience), null);
  await worker.goOn();
});
