/** Volumes that several workers serve: who gets where, and that every change finds them at one worker. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { waitFor } from '../helpers/daemon.ts';
import { Bench, wished } from './volume-bench.ts';

const A = 'vg a';

/** Volume a at worker 0, with these clients of it. */
async function served(clients: number, wish: Parameters<typeof wished>[1] = {}, workers = 2): Promise<Bench> {
  const bench = await Bench.open(workers);
  // What workers that have come begin is done.
  await nextTurn();
  await bench.apply([wished('a', wish)]);
  for (let connection = 1; connection <= clients; connection++) await bench.client(connection, 'vg/a').done;
  bench.asked();
  return bench;
}

function places(bench: Bench): readonly (readonly number[])[] {
  return bench.hosts.map((host) => [...host.requests.keys()]);
}

function workersOf(bench: Bench, name = 'vg/a'): readonly number[] | undefined {
  return bench.volumes.status().find((one) => one.name === name)?.workers;
}

describe('who gets where', () => {
  test('a lone client is at home; more of them spread over the workers', async () => {
    const bench = await served(1);
    assert.deepEqual(places(bench), [[1], []]);
    assert.equal(workersOf(bench), undefined);
    for (const connection of [2, 3, 4]) await bench.client(connection, 'vg/a').done;
    assert.deepEqual(places(bench), [
      [1, 3],
      [2, 4],
    ]);
    assert.deepEqual(workersOf(bench), [0, 1]);
    assert.deepEqual(bench.states(), [{ 'vg/a': '100' }, { 'vg/a': '100' }]);
  });

  test('so do those who come at once', async () => {
    const bench = await served(0, {}, 3);
    await Promise.all([1, 2, 3, 4, 5, 6].map((connection) => bench.client(connection, 'vg/a').done));
    assert.deepEqual(
      places(bench).map(({ length }) => length),
      [2, 2, 2],
    );
  });

  test('who comes while it is brought to a worker that can’t have it is at home, and asks no other one', async () => {
    const bench = await served(1);
    bench.rules.unloadable.add(A);
    await Promise.all([2, 3, 4].map((connection) => bench.client(connection, 'vg/a').done));
    assert.deepEqual(places(bench), [[1, 2, 3, 4], []]);
    assert.equal(bench.asked().filter((line) => line === '1 load a').length, 1);
  });

  test('where others have left a new client finds the place', async () => {
    const bench = await served(4);
    for (const connection of [2, 4]) {
      bench.volumes.clients.closed(connection);
      bench.hosts[1]?.requests.delete(connection);
    }
    for (const connection of [5, 6]) await bench.client(connection, 'vg/a').done;
    assert.deepEqual(places(bench), [
      [1, 3],
      [5, 6],
    ]);
  });

  test('a worker that has much else to do gets none', async () => {
    const bench = await Bench.open(2);
    const others = ['b', 'c', 'd', 'e', 'f'].map((id) => wished(id, { shareKey: 'x' }));
    await bench.apply([wished('a'), ...others]);
    for (const connection of [1, 2, 3]) await bench.client(connection, 'vg/a').done;
    assert.deepEqual(places(bench), [[1, 2, 3], []]);
  });

  test('what shares something, or has state, is at one worker', async () => {
    for (const wish of [{ shareKey: 'pool' }, { snapshots: ['s'], shareKey: 'a' }]) {
      const bench = await served(3, wish);
      assert.deepEqual(places(bench), [[1, 2, 3], []]);
    }
  });

  test('so is what the other worker refuses, which is asked once', async () => {
    const bench = await Bench.open(2);
    bench.rules.alone.add(A);
    await bench.apply([wished('a')]);
    for (const connection of [1, 2, 3]) await bench.client(connection, 'vg/a').done;
    assert.deepEqual(places(bench), [[1, 2, 3], []]);
    assert.equal(bench.asked().filter((line) => line === '1 load a').length, 1);
    assert.deepEqual(bench.states(), [{ 'vg/a': '100' }, {}]);
  });

  test('what the other worker could not load this time, it may the next', async () => {
    const bench = await served(1);
    bench.rules.unloadable.add(A);
    await bench.client(2, 'vg/a').done;
    bench.rules.unloadable.clear();
    await bench.client(3, 'vg/a').done;
    assert.deepEqual(places(bench), [[1, 2], [3]]);
  });

  test('when the daemon ends nobody is brought anywhere', async () => {
    const bench = await served(1);
    bench.volumes.branches.stop();
    for (const connection of [2, 3]) await bench.client(connection, 'vg/a').done;
    assert.deepEqual(places(bench), [[1, 2, 3], []]);
  });

  test('the worker dies that is to have it: the client is served by the other one', async () => {
    const bench = await served(1);
    bench.rules.deadly = '1 load a';
    await bench.client(2, 'vg/a').done;
    assert.deepEqual(bench.hosts[0]?.adopted, [1, 2]);
    assert.equal(workersOf(bench), undefined);
  });
});

describe('a change', () => {
  test('finds all at home, and they are spread again afterwards', async () => {
    const bench = await served(4);
    assert.deepEqual(await bench.apply([wished('a', { sectors: 200 })]), []);
    await waitFor('them to be spread', () => Promise.resolve(places(bench)[1]?.length === 2));
    assert.deepEqual(places(bench), [
      [1, 3],
      [2, 4],
    ]);
    const asked = bench.asked();
    const order = ['1 give a 2,4', '1 retire a', '0 load a', '0 swap a', '1 load a', '0 give a 2,4'];
    assert.deepEqual(
      asked.filter((line) => order.includes(line)),
      order,
    );
    assert.deepEqual(bench.states(), [{ 'vg/a': '200' }, { 'vg/a': '200' }]);
  });

  test('to a volume with state leaves them there, until it has none again', async () => {
    const bench = await served(4);
    await bench.apply([wished('a', { snapshots: ['s'], shareKey: 'a' })]);
    assert.deepEqual(places(bench), [[1, 3, 2, 4], []]);
    assert.deepEqual(bench.states(), [{ 'vg/a': '100' }, {}]);
    bench.volumes.clients.closed(4);
    await bench.apply([wished('a')]);
    await waitFor('them to be spread', () => Promise.resolve(places(bench)[1]?.length === 1));
    assert.deepEqual(places(bench)[1], [2]);
  });

  test('of another volume does not touch them; a name goes to all of its workers', async () => {
    const bench = await served(2);
    await bench.apply([wished('a'), wished('b')]);
    assert.deepEqual(
      bench.asked().filter((line) => line.endsWith(' a')),
      [],
    );
    await bench.apply([wished('a', { name: 'vg/z' }), wished('b')]);
    assert.deepEqual(bench.asked().toSorted(), ['0 describe a vg/z', '1 describe a vg/z']);
  });

  test('waits for a client whose requests are not done, and does not take place then', async () => {
    const bench = await served(2);
    bench.rules.busy.add(2);
    const [problem] = await bench.apply([wished('a', { sectors: 200 })]);
    assert.match(problem?.reason ?? '', /what 1 clients have asked of vg\/a is not done/);
    assert.deepEqual(bench.states(), [{ 'vg/a': '100' }, { 'vg/a': '100' }]);
    assert.deepEqual(places(bench), [[1], [2]]);
    bench.rules.busy.clear();
    assert.deepEqual(await bench.apply([wished('a', { sectors: 200 })]), []);
    await waitFor('them to be spread', () => Promise.resolve(places(bench)[1]?.length === 1));
    assert.deepEqual(bench.states(), [{ 'vg/a': '200' }, { 'vg/a': '200' }]);
  });

  test('ends it everywhere', async () => {
    const bench = await served(2);
    await bench.apply([]);
    assert.deepEqual(bench.states(), [{}, {}]);
    const asked = bench.asked();
    for (const worker of [0, 1]) {
      assert.ok(asked.indexOf(`${worker} disconnect a`) < asked.indexOf(`${worker} retire a`));
      assert.ok(asked.includes(`${worker} retire a`));
    }
  });

  test('of a command suspends it at one worker, and nobody spreads meanwhile', async () => {
    const bench = await served(2);
    bench.volumes.setChanging('vg', true);
    assert.deepEqual(await bench.volumes.suspend([A]), []);
    assert.deepEqual(bench.states(), [{ 'vg/a': '[100]' }, {}]);
    await bench.client(3, 'vg/a').done;
    assert.deepEqual(places(bench), [[1, 2, 3], []]);
    await bench.apply([wished('a', { sectors: 50 })]);
    assert.deepEqual(bench.states(), [{ 'vg/a': '50' }, {}]);
    bench.volumes.setChanging('vg', false);
    await waitFor('them to be spread', () => Promise.resolve(places(bench)[1]?.length === 1));
    assert.deepEqual(places(bench), [[1, 3], [2]]);
  });
});

describe('what does not take place', () => {
  test('a command that can’t suspend all of its volumes lets clients of the others go where they were', async () => {
    const bench = await served(4);
    await bench.apply([wished('a'), wished('b')]);
    bench.rules.unsuspendable.add('vg b');
    bench.volumes.setChanging('vg', true);
    const ids = [A, 'vg b'];
    assert.deepEqual(
      (await bench.volumes.suspend(ids)).map(({ id }) => id),
      ['vg b'],
    );
    assert.deepEqual(places(bench), [[1, 3, 2, 4], []]);
    bench.volumes.setChanging('vg', false);
    await bench.volumes.resume(ids);
    await waitFor('them to be spread', () => places(bench)[1]?.length === 2, 2000);
    assert.deepEqual(places(bench), [
      [1, 3],
      [2, 4],
    ]);
  });

  test('clients who came while everything was about to be handed over are spread when it is not', async () => {
    const bench = await served(2);
    bench.volumes.branches.stop();
    for (const connection of [3, 4, 5, 6]) await bench.client(connection, 'vg/a').done;
    assert.deepEqual(places(bench), [[1, 3, 4, 5, 6], [2]]);
    bench.volumes.branches.goOn();
    await waitFor('them to be spread', () => places(bench)[1]?.length === 3, 2000);
    assert.equal(places(bench)[0]?.length, 3);
  });
});

/** Clients that another process had, all of them at the home of volume a. */
async function taken(clients: number, workers = 2): Promise<Bench> {
  const bench = await served(1, {}, workers);
  const [request] = bench.hosts[0]!.requests.values();
  assert(request !== undefined);
  for (let connection = 2; connection <= clients; connection++) {
    await bench.volumes.clients.resumeClient({ ...request, connection, resumed: true }, {});
  }
  bench.asked();
  return bench;
}

describe('clients of another process', () => {
  test('are spread as if they came anew, and change nothing when that is done', async () => {
    const bench = await taken(7, 3);
    bench.volumes.branches.spread();
    await waitFor('them to be spread', () => bench.hosts[2]?.requests.size === 2);
    assert.deepEqual(
      places(bench).map(({ length }) => length),
      [3, 2, 2],
    );
    assert.deepEqual(workersOf(bench), [0, 1, 2]);
    bench.asked();
    bench.volumes.branches.spread();
    await bench.volumes.settled(['vg']);
    assert.deepEqual(bench.asked(), []);
  });

  test('stay where their volumes have to be, and where other workers have enough to do', async () => {
    const bench = await taken(4);
    await bench.apply([wished('a'), ...['b', 'c', 'd', 'e'].map((id) => wished(id, { shareKey: 'x' }))]);
    bench.volumes.branches.spread();
    await bench.volumes.settled(['vg']);
    assert.deepEqual(places(bench), [[1, 2, 3, 4], []]);
    for (const id of ['b', 'c', 'd', 'e']) bench.rules.alone.add(`vg ${id}`);
    await bench.apply([wished('a', { shareKey: 'y' })]);
    bench.volumes.branches.spread();
    await bench.volumes.settled(['vg']);
    assert.deepEqual(places(bench), [[1, 2, 3, 4], []]);
  });

  test('wait for the end of a change, and do not go when the daemon ends', async () => {
    const bench = await taken(4);
    bench.volumes.setChanging('vg', true);
    bench.volumes.branches.spread();
    assert.deepEqual(await bench.volumes.suspend([A]), []);
    await bench.apply([wished('a', { sectors: 200 })]);
    assert.deepEqual(places(bench), [[1, 2, 3, 4], []]);
    bench.volumes.setChanging('vg', false);
    await waitFor('them to be spread', () => bench.hosts[1]?.requests.size === 2);
    assert.deepEqual(bench.states(), [{ 'vg/a': '200' }, { 'vg/a': '200' }]);
    const other = await taken(4);
    other.volumes.branches.stop();
    other.volumes.branches.spread();
    await other.volumes.settled(['vg']);
    assert.deepEqual(places(other), [[1, 2, 3, 4], []]);
  });

  test('are all there when a change begins in the middle, which finds them at one worker', async () => {
    const bench = await taken(4);
    bench.volumes.branches.spread();
    assert.deepEqual(await bench.apply([wished('a', { sectors: 200 })]), []);
    await waitFor('them to be spread', () => bench.hosts[1]?.requests.size === 2);
    const order = ['1 load a', '0 give a 2,3', '1 give a 2,3', '1 retire a', '0 swap a', '1 load a', '0 give a 2,3'];
    assert.deepEqual(
      bench.asked().filter((line) => order.includes(line)),
      order,
    );
  });

  test('are lost with the workers that have them, and with no others', async () => {
    for (const deadly of ['1 load a', '1 resume a']) {
      const bench = await taken(4);
      bench.rules.deadly = deadly;
      bench.volumes.branches.spread();
      await bench.volumes.settled(['vg']);
      assert.equal(bench.volumes.openCount(A), 4, deadly);
    }
    // It may have had that one.
    const bench = await taken(4);
    bench.rules.deadly = '1 adopt';
    bench.volumes.branches.spread();
    await bench.volumes.settled(['vg']);
    assert.deepEqual(places(bench)[0]?.toSorted(), [1, 3, 4]);
    assert.equal(bench.volumes.openCount(A), 3);
  });

  test('are spread though others were noted who have ended with their worker', async () => {
    const bench = await served(4);
    bench.volumes.setChanging('vg', true);
    await bench.apply([wished('a', { sectors: 200 })]);
    bench.hosts[0]?.die();
    await waitFor('another home', () => bench.pool.slots[0]?.host !== null);
    bench.volumes.setChanging('vg', false);
    await bench.volumes.resume(bench.volumes.heldOf('vg'));
    for (const connection of [5, 6, 7]) await bench.client(connection, 'vg/a').done;
    bench.hosts[1]?.die();
    for (const connection of [8, 9]) await bench.client(connection, 'vg/a').done;
    await waitFor('another worker', () => bench.pool.slots[1]?.host !== null);
    await waitFor('them to be spread', () => bench.hosts[1]?.requests.size === 2);
    assert.equal(bench.hosts[0]?.requests.size, 2);
  });

  test('come back to their worker when the other one has ended before it saw them', async () => {
    const bench = await taken(4);
    const home = bench.hosts[0]!;
    const give = home.give.bind(home);
    home.give = (request) => {
      bench.hosts[1]?.die();
      return give(request);
    };
    bench.volumes.branches.spread();
    await bench.volumes.settled(['vg']);
    assert.deepEqual(places(bench)[0]?.toSorted(), [1, 2, 3, 4]);
    assert.equal(bench.volumes.openCount(A), 4);
  });
});

test('a flush that fails at one worker has failed at all others', async () => {
  const bench = await served(3, {}, 3);
  bench.hosts[1]?.loses('device');
  assert.deepEqual(bench.asked(), ['0 loseFlushes device', '2 loseFlushes device']);
});

describe('a worker dies', () => {
  test('that has a branch: its clients are lost, the volume is not', async () => {
    const bench = await served(4);
    bench.hosts[1]?.die();
    assert.equal(bench.volumes.openCount(A), 2);
    assert.equal(workersOf(bench), undefined);
    await waitFor('another worker', () => Promise.resolve(bench.pool.slots[1]?.host !== null));
    await waitFor('who is left to be spread', () => bench.hosts[1]?.requests.size === 1);
    for (const connection of [5, 6]) await bench.client(connection, 'vg/a').done;
    assert.deepEqual(places(bench), [
      [1, 5],
      [3, 6],
    ]);
  });

  test('again and again: nobody who is served elsewhere is brought there', async () => {
    const bench = await served(2);
    bench.hosts[1]?.die();
    await waitFor('another worker', () => bench.pool.slots[1]?.host !== null);
    bench.hosts[1]?.die();
    for (const connection of [3, 4]) await bench.client(connection, 'vg/a').done;
    await waitFor('one more', () => bench.pool.slots[1]?.host !== null);
    const turn = Promise.withResolvers<void>();
    setImmediate(turn.resolve);
    await turn.promise;
    assert.deepEqual(places(bench), [[1, 3, 4], []]);
  });

  test('that is its home: the others go on, and a change finds a new home', async () => {
    const bench = await served(4);
    bench.hosts[0]?.die();
    assert.equal(bench.volumes.openCount(A), 2);
    assert.deepEqual(bench.hosts[1]?.state(), { 'vg/a': '100' });
    assert.deepEqual(await bench.apply([wished('a', { sectors: 200 })]), []);
    assert.equal(bench.states()[0]?.['vg/a'], '200');
    assert.notEqual(bench.states()[1]?.['vg/a'], '100');
  });

  test('that is its home, while the volume leaves: its extents are not free before the branch has ended', async () => {
    const bench = await served(2);
    const busy = Promise.withResolvers<void>();
    const branch = bench.hosts[1]!;
    const retire = branch.retire.bind(branch);
    branch.retire = async (id) => {
      await busy.promise;
      return retire(id);
    };
    bench.rules.deadly = '0 disconnect a';
    const applied = bench.apply([wished('b')]);
    await waitFor('another home', () =>
      Promise.resolve(bench.pool.slots[0]?.host !== null && bench.hosts[0] !== undefined),
    );
    assert.deepEqual(bench.states(), [{}, { 'vg/a': '100' }]);
    busy.resolve();
    await applied;
    assert.equal(bench.states().filter((state) => 'vg/a' in state).length, 0);
    assert.equal(bench.states().filter((state) => 'vg/b' in state).length, 1);
  });

  test('while clients move to it: they are lost, and nothing goes on with the old table', async () => {
    for (const deadly of ['0 adopt', '1 give a 2,4', '1 retire a', '0 load a', '0 swap a']) {
      const bench = await served(4);
      bench.rules.deadly = deadly;
      assert.deepEqual(await bench.apply([wished('a', { sectors: 200 })]), [], deadly);
      for (const [i, state] of bench.states().entries()) {
        assert.ok((state['vg/a'] ?? '200') === '200', `${deadly}: worker ${i} has ${state['vg/a']}`);
      }
    }
  });
});
