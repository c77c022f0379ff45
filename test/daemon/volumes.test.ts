/**
 * Volumes following the metadata: the order of loads, suspends and resumes over several workers, what happens when one of them
 * can't follow, and workers that die at every step.
 */
import assert from 'node:assert/strict';
import { describe, test, type TestContext } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { WORKER_TIMEOUT_MS } from '../../src/daemon/group-change.ts';
import { RETIRE_TIMEOUT_MS } from '../../src/daemon/volumes.ts';
import type { VolumeSpec } from '../../src/daemon/worker/host.ts';
import { WorkerPool } from '../../src/daemon/worker/pool.ts';
import { waitFor } from '../helpers/daemon.ts';
import { FakeWorker, noRules } from './fake-worker.ts';
import { Bench, LOG, wished } from './volume-bench.ts';

/** The next load of any worker waits until the test lets it go on. */
function slowLoad(t: TestContext): { readonly begun: Promise<void>; readonly goOn: () => void } {
  const begun = Promise.withResolvers<void>();
  const slow = Promise.withResolvers<void>();
  const slowly = t.mock.method(
    FakeWorker.prototype,
    'load',
    async function (this: FakeWorker, specs: readonly VolumeSpec[]) {
      begun.resolve();
      await slow.promise;
      slowly.mock.restore();
      return this.load(specs);
    },
  );
  return { begun: begun.promise, goOn: slow.resolve };
}

describe('a change of a volume group', () => {
  test('loads, then suspends all that changed, resumes it, and only then what is new', async () => {
    const bench = await Bench.open(2);
    await bench.apply([wished('a'), wished('b')]);
    assert.deepEqual(bench.states(), [{ 'vg/a': '100' }, { 'vg/b': '100' }]);
    bench.asked();
    assert.deepEqual(await bench.apply([wished('a'), wished('b')]), []);
    assert.deepEqual(bench.asked(), [], 'nothing changed');
    await bench.apply([wished('a', { sectors: 50 }), wished('b', { sectors: 150 }), wished('c')]);
    const asked = bench.asked();
    const order = (what: RegExp): number[] => asked.flatMap((line, i) => (what.test(line) ? [i] : []));
    const loads = order(/load/);
    const suspends = order(/suspend/);
    const resumes = order(/resume [ab]/);
    const fresh = order(/resume c/);
    assert.ok(Math.max(...loads) < Math.min(...suspends), asked.join());
    assert.ok(Math.max(...suspends) < Math.min(...resumes), asked.join());
    assert.ok(Math.max(...resumes) < Math.min(...fresh), asked.join());
  });

  test('what changes with one worker is exchanged in one go, or not at all', async () => {
    const bench = await Bench.open(1);
    await bench.apply([wished('a'), wished('b')]);
    bench.asked();
    bench.rules.unsuspendable.add('vg b');
    const changed = [wished('a', { sectors: 50 }), wished('b', { snapshots: ['c'] }), wished('c')];
    const problems = await bench.apply(changed);
    assert.deepEqual(problems.map(({ volume }) => volume.name).toSorted(), ['vg/a', 'vg/b', 'vg/c']);
    assert.deepEqual(bench.states(), [{ 'vg/a': '100', 'vg/b': '100' }]);
    bench.rules.unsuspendable.clear();
    bench.asked();
    assert.deepEqual(await bench.apply(changed), []);
    assert.deepEqual(bench.asked(), ['0 load a b c', '0 swap a b c']);
    assert.deepEqual(bench.states(), [{ 'vg/a': '50', 'vg/b': '100', 'vg/c': '100' }]);
  });

  test('what leaves is gone before anything else is touched', async () => {
    const bench = await Bench.open(2);
    await bench.apply([wished('a'), wished('b')]);
    bench.asked();
    await bench.apply([wished('b', { sectors: 200 }), wished('c', { reason: 'deactivated' })]);
    assert.deepEqual(bench.asked(), ['0 disconnect a', '0 retire a', '1 load b', '1 swap b']);
    assert.deepEqual(
      bench.volumes.status().map(({ name, state, reason }) => [name, reason ?? state]),
      [
        ['vg/b', 'active'],
        ['vg/c', 'deactivated'],
      ],
    );
  });

  test('what leaves while a command has it suspended fails what waits there, or its clients could not be let go', async () => {
    const bench = await Bench.open(1);
    await bench.apply([wished('a'), wished('b')]);
    bench.volumes.setChanging('vg', true);
    await bench.volumes.suspend(['vg a']);
    bench.asked();
    await bench.apply([wished('a', { reason: 'a device is missing' }), wished('b')]);
    bench.volumes.setChanging('vg', false);
    assert.deepEqual(bench.asked(), ['0 wipe a', '0 disconnect a', '0 retire a']);
    assert.deepEqual(bench.states(), [{ 'vg/b': '100' }]);
  });

  test('if one cannot be suspended, all go on as they were, with the reason; another group is not concerned', async () => {
    const bench = await Bench.open(2);
    const others = wished('x', { vg: 'other' });
    await bench.apply([wished('a'), wished('b'), others]);
    bench.rules.unsuspendable.add('vg b');
    const changed = [wished('a', { sectors: 50 }), wished('b', { sectors: 150 }), wished('c')];
    const problems = await bench.apply([...changed, wished('x', { vg: 'other', sectors: 7 })]);
    assert.deepEqual(problems.map(({ volume }) => volume.name).toSorted(), ['vg/a', 'vg/b', 'vg/c']);
    for (const { reason } of problems) assert.match(reason, /can't be suspended.*its device hangs/);
    assert.deepEqual(Object.assign({}, ...bench.states()), { 'vg/a': '100', 'vg/b': '100', 'other/x': '7' });
    assert.match(bench.volumes.status().find(({ name }) => name === 'vg/a')?.problem ?? '', /its device hangs/);

    bench.rules.unsuspendable.clear();
    assert.deepEqual(await bench.apply(changed.concat(others)), []);
    assert.deepEqual(Object.assign({}, ...bench.states()), {
      'vg/a': '50',
      'vg/b': '150',
      'vg/c': '100',
      'other/x': '100',
    });
    assert.equal(bench.volumes.status().find(({ name }) => name === 'vg/a')?.problem, undefined);
  });

  test('a table that cannot be loaded ends its volume only', async () => {
    const bench = await Bench.open(1);
    await bench.apply([wished('a'), wished('b')]);
    bench.rules.unloadable.add('vg a');
    const problems = await bench.apply([wished('a', { sectors: 50 }), wished('b', { sectors: 150 })]);
    assert.deepEqual(
      problems.map(({ volume, reason }) => [volume.name, reason]),
      [['vg/a', 'told so by the test']],
    );
    assert.deepEqual(bench.states(), [{ 'vg/b': '150' }]);
  });

  test('what can be neither loaded nor let go keeps its extents: nothing of its group follows, then or later', async (t) => {
    const bench = await Bench.open(2);
    await bench.apply([wished('a'), wished('b')]);
    bench.rules.unloadable.add('vg a');
    bench.rules.endless.add('vg a');
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const changed = [wished('a', { sectors: 50 }), wished('b', { sectors: 150 }), wished('c')];
    for (const reason of [/vg\/a can't be let go/, /before vg\/a is let go/]) {
      const running = new Set(['apply']);
      const applied = bench.apply(changed).finally(() => running.clear());
      while (running.size > 0) {
        await nextTurn();
        t.mock.timers.tick(RETIRE_TIMEOUT_MS / 100);
      }
      const problems = new Map((await applied).map((problem) => [problem.volume.name, problem.reason]));
      for (const name of ['vg/b', 'vg/c']) assert.match(problems.get(name) ?? '', reason);
      assert.ok(problems.has('vg/a'));
      assert.deepEqual(Object.assign({}, ...bench.states()), { 'vg/a': '100', 'vg/b': '100' });
    }
    // With its worker everything of it has ended.
    bench.rules.unloadable.clear();
    bench.rules.endless.clear();
    t.mock.timers.reset();
    bench.hosts[0]?.die();
    assert.deepEqual(await bench.apply(changed), []);
    assert.deepEqual(Object.assign({}, ...bench.states()), { 'vg/a': '50', 'vg/b': '150', 'vg/c': '100' });
  });

  test('what goes on as it was does not wait for the end of what was to begin', async (t) => {
    const bench = await Bench.open(2);
    await bench.apply([wished('a'), wished('b')]);
    bench.rules.unsuspendable.add('vg b');
    for (const id of ['vg n', 'vg m']) bench.rules.endless.add(id);
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const applied = bench.apply([wished('a', { sectors: 50 }), wished('b', { sectors: 50 }), wished('m'), wished('n')]);
    const asked: string[] = [];
    while (asked.filter((line) => /retire/.test(line)).length < 2) {
      asked.push(...bench.asked());
      await nextTurn();
    }
    assert.deepEqual(Object.assign({}, ...bench.states()), {
      'vg/a': '100',
      'vg/b': '100',
      'vg m': 'none',
      'vg n': 'none',
    });
    t.mock.timers.tick(RETIRE_TIMEOUT_MS);
    assert.equal((await applied).length, 4);
  });

  test('what cannot follow because something else cannot be let go is told', async (t) => {
    const bench = await Bench.open(1);
    await bench.apply([wished('a'), wished('b'), wished('c')]);
    bench.rules.endless.add('vg a');
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const applied = bench.apply([wished('b', { sectors: 50 }), wished('c'), wished('n')]);
    while (!bench.asked().includes('0 retire a')) await nextTurn();
    t.mock.timers.tick(RETIRE_TIMEOUT_MS);
    const problems = await applied;
    assert.deepEqual(problems.map(({ volume }) => volume.name).toSorted(), ['vg/a', 'vg/b', 'vg/n']);
    assert.equal(bench.states()[0]?.['vg/b'], '100');
  });

  test('a worker that keeps dying in a change keeps nobody else from going on, with the table that he had', async () => {
    const bench = await Bench.open(2);
    await bench.apply([wished('a'), wished('b')]);
    const changed = [wished('a', { sectors: 50 }), wished('b', { sectors: 150 })];
    // First when a is suspended, then whenever it is asked to load.
    let deadly = '1 suspend b';
    const get = (): string => deadly;
    const set = (): void => void (deadly = '1 load b');
    Object.defineProperty(bench.rules, 'deadly', { get, set, configurable: true });
    const applied = bench.apply(changed);
    assert.equal((await applied).length, 2);
    assert.equal(bench.states()[0]?.['vg/a'], '100');
    Object.defineProperty(bench.rules, 'deadly', { value: null, writable: true });
    await waitFor('the other worker', () => bench.states()[1]?.['vg/b'] === '100');
    assert.deepEqual(await bench.apply(changed), []);
    assert.deepEqual(bench.states(), [{ 'vg/a': '50' }, { 'vg/b': '150' }]);
  });

  test('a new name is no reason to touch the table', async () => {
    const bench = await Bench.open(1);
    await bench.apply([wished('a')]);
    bench.asked();
    await bench.apply([wished('a', { name: 'vg/new' })]);
    assert.deepEqual(bench.asked(), ['0 describe a vg/new']);
    assert.deepEqual(
      bench.volumes.clients
        .viewFor()
        .list()
        .map(({ name }) => name),
      ['vg/new'],
    );
  });
});

describe('places', () => {
  test('volumes that share something are together; who begins to share moves there', async () => {
    const bench = await Bench.open(2);
    await bench.apply([wished('a'), wished('b', { shareKey: 'pool' }), wished('c', { shareKey: 'pool' }), wished('d')]);
    assert.deepEqual(bench.states(), [
      { 'vg/a': '100', 'vg/d': '100' },
      { 'vg/b': '100', 'vg/c': '100' },
    ]);
    await bench.apply([wished('a', { shareKey: 'pool' }), wished('b', { shareKey: 'pool' }), wished('d')]);
    assert.deepEqual(bench.states(), [{ 'vg/d': '100' }, { 'vg/b': '100', 'vg/a': '100' }]);
    await bench.apply([wished('d', { shareKey: 'new' }), wished('e', { shareKey: 'new' })]);
    assert.deepEqual(bench.states(), [{ 'vg/d': '100', 'vg/e': '100' }, {}], 'who was there first stays');
  });
});

describe('a worker that dies', () => {
  const steps = ['load a', 'load b', 'suspend a', 'suspend b', 'resume a', 'resume b', 'load b c', 'resume c'];
  for (const workers of [1, 2]) {
    for (const step of ['load a b c', 'suspend a b', 'resume a b', ...steps]) {
      for (let index = 0; index < workers; index++) {
        const deadly = `${index} ${step}`;
        test(`of ${workers}, when it is asked "${deadly}"`, async () => {
          const bench = await Bench.open(workers);
          await bench.apply([wished('a'), wished('b')]);
          bench.rules.deadly = deadly;
          const desired = [wished('a', { sectors: 50 }), wished('b', { sectors: 150 }), wished('c')];
          const met = bench.apply(desired);
          assert.deepEqual(await met, []);
          const expected = { 'vg/a': '50', 'vg/b': '150', 'vg/c': '100' };
          assert.deepEqual(Object.assign({}, ...bench.states()), expected);
          for (const { problem } of bench.volumes.status()) assert.equal(problem, undefined);
        });
      }
    }
  }

  test('while a volume is held does not get it back before it is released', async () => {
    const bench = await Bench.open(2);
    await bench.apply([wished('a'), wished('b')]);
    assert.deepEqual(await bench.volumes.suspend(['vg a']), []);
    bench.hosts[0]?.die();
    await waitFor('the new worker', () => bench.pool.slots[0]?.host === bench.hosts[0]);
    assert.deepEqual(bench.hosts[0]?.state(), {});
    await bench.volumes.resume(['vg a']);
    assert.deepEqual(bench.hosts[0]?.state(), { 'vg/a': '100' });
  });

  test('does not keep what leaves while it gets its tables back', async (t) => {
    const bench = await Bench.open(1);
    await bench.apply([wished('a')]);
    const { begun, goOn } = slowLoad(t);
    bench.hosts[0]?.die();
    await begun;
    await bench.apply([]);
    goOn();
    await bench.pool.slots[0]?.within(5000);
    assert.deepEqual(bench.hosts[0]?.state(), {});
  });

  test('gets also what was held when its restoring began, and what nobody waits for any more', async (t) => {
    const bench = await Bench.open(1);
    await bench.apply([wished('a'), wished('b')]);
    assert.deepEqual(await bench.volumes.suspend(['vg a']), []);
    const { begun, goOn } = slowLoad(t);
    bench.hosts[0]?.die();
    await begun;
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const given = bench.volumes.resume(['vg a']);
    t.mock.timers.tick(WORKER_TIMEOUT_MS);
    await given;
    t.mock.timers.reset();
    goOn();
    await bench.pool.slots[0]?.within(5000);
    assert.deepEqual(bench.hosts[0]?.state(), { 'vg/a': '100', 'vg/b': '100' });
    const states = bench.volumes.status().map(({ name, problem }) => [name, problem]);
    assert.deepEqual(states, [
      ['vg/a', undefined],
      ['vg/b', undefined],
    ]);
  });
});

describe('clients', () => {
  test('wait while a volume is blocked, or its worker is away; and are told when it is gone', async () => {
    const bench = await Bench.open(1);
    await bench.apply([wished('a')]);
    bench.volumes.clients.block(['vg a']);
    const waiting = bench.client(1, 'vg/a');
    const leaving = bench.client(2, 'vg/a');
    leaving.abort.abort();
    await assert.rejects(leaving.done, /waited too long/);
    assert.equal(bench.volumes.openCount('vg a'), 0);
    bench.volumes.clients.release(['vg a']);
    assert.equal(await waiting.done, null);
    assert.equal(bench.volumes.openCount('vg a'), 1);

    bench.hosts[0]?.die();
    assert.equal(bench.volumes.openCount('vg a'), 0, 'its clients ended with it');
    assert.equal(await bench.client(3, 'vg/a').done, null);
    assert.deepEqual(bench.hosts[0]?.adopted, [3]);

    bench.volumes.clients.block(['vg a']);
    const refused = bench.client(4, 'vg/a');
    await bench.apply([]);
    assert.deepEqual(await refused.done, { kind: 'unknown', text: 'there is no logical volume vg/a' });
    bench.volumes.clients.closed(3);
    assert.deepEqual([...bench.volumes.liveStatus()], []);
  });

  test('that wait are shown what the volume is then', async () => {
    const bench = await Bench.open(1);
    await bench.apply([wished('a')]);
    bench.volumes.clients.block(['vg a']);
    const waiting = bench.client(1, 'vg/a');
    await bench.apply([wished('a', { sectors: 300 })]);
    bench.volumes.clients.release(['vg a']);
    assert.equal(await waiting.done, null);
    assert.equal(bench.volumes.clients.viewFor().find('vg/a')?.sizeBytes, 300 * 512);
  });
});

test('who was shown a read-only volume never writes it, also when it becomes writable', async () => {
  const bench = await Bench.open(1);
  await bench.apply([wished('a', { readOnly: true })]);
  await bench.client(1, 'vg/a').done;
  await bench.apply([wished('a')]);
  await bench.client(2, 'vg/a').done;
  // The first one counts as nobody who writes, and rules may have allowed it to read only.
  assert.deepEqual(bench.volumes.status()[0]?.writers, ['an unknown client']);
  assert.deepEqual([...(bench.hosts[0]?.readers ?? [])], [1]);
});

test('a worker that dies while the others become quiet keeps everything here, and one that follows it is ended too', async () => {
  const bench = await Bench.open(2);
  const [first, second] = bench.hosts;
  assert(first !== undefined && second !== undefined);
  const slow = Promise.withResolvers<string | null>();
  second.quiesce = (): Promise<string | null> => slow.promise;
  const quiet = bench.pool.quiesce({ workMs: 1000, answerMs: 100 });
  await new Promise((resolve) => setImmediate(resolve));
  first.die();
  slow.resolve(null);
  assert.match((await quiet) ?? '', /worker 0/);
  await bench.pool.slots[0]?.within(5000);
  // Nothing is left that could start another one.
  bench.hosts[0]?.die();
  await bench.pool.release();
  await assert.rejects(bench.pool.slots[0]?.within(300) ?? Promise.resolve(), { code: 'TIMEOUT' });
});

test('a worker that can not be started ends the start, and the others are ended', async () => {
  const rules = noRules();
  const slow = Promise.withResolvers<void>();
  const ended: number[] = [];
  const pool = new WorkerPool({
    count: 2,
    async start(index, events) {
      if (index === 0) throw new Error('no such worker');
      await slow.promise;
      const host = new FakeWorker(index, rules, events);
      host.drain = (): Promise<readonly string[]> => {
        ended.push(index);
        return Promise.resolve([]);
      };
      return host;
    },
    restore: () => Promise.resolve(),
    lost: () => undefined,
    connectionClosed: () => undefined,
    client: () => Promise.resolve(),
    log: LOG,
  });
  const opening = assert.rejects(pool.open(), /no such worker/);
  const draining = pool.drain();
  slow.resolve();
  await opening;
  assert.deepEqual(await draining, []);
  assert.deepEqual(ended, [1]);
});

describe('a worker that keeps dying', () => {
  test('is started again ever more slowly', async () => {
    const bench = await Bench.open(1);
    const slot = bench.pool.slots[0];
    const delays: number[] = [];
    for (let i = 0; i < 4; i++) {
      const begun = performance.now();
      const before = bench.hosts[0];
      before?.die();
      await slot?.within(5000);
      delays.push(performance.now() - begun);
      assert.notEqual(bench.hosts[0], before);
    }
    assert.equal(slot?.status().restarts, 4);
    const [first = 0, second = 0, , last = 0] = delays;
    assert.ok(first < last / 2 && second > 150 && last > 600, delays.join(', '));
    await bench.pool.drain();
  });
});
