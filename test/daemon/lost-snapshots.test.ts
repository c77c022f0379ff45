/**
 * Tables that can't be loaded, of volumes that others wait for: who goes on with the table that it had, who takes no writes, and that no
 * origin waits for a snapshot that is not there.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DesiredVolume, ExportStatus } from '../../src/daemon/served-volume.ts';
import { waitFor } from '../helpers/daemon.ts';
import { Bench, wished } from './volume-bench.ts';

test('an origin does not wait for a snapshot that cannot be loaded: new, it is not followed; known, it ends the writes', async () => {
  const bench = await Bench.open(1);
  const key = { shareKey: 'o' };
  await bench.apply([wished('o', key), wished('x')]);
  bench.rules.unloadable.add('vg s');
  const first = [wished('o', { ...key, snapshots: ['s'] }), wished('s', key), wished('x', { sectors: 7 })];
  const problems = await bench.apply(first);
  assert.deepEqual(problems.map(({ volume }) => volume.name).toSorted(), ['vg/o', 'vg/s']);
  const table = (): string | undefined => bench.hosts[0]?.volumes.get('vg o')?.live?.table[0]?.target;
  const status = (): ExportStatus | undefined => bench.volumes.status().find(({ name }) => name === 'vg/o');
  assert.deepEqual([table(), status()?.readOnly, bench.states()[0]?.['vg/x']], ['linear', false, '7']);
  assert.match(status()?.problem ?? '', /its snapshot vg\/s can't be loaded: told so/);

  bench.rules.unloadable.clear();
  assert.deepEqual(await bench.apply(first), []);
  assert.deepEqual([table(), status()?.readOnly, status()?.problem], ['snapshot-origin', false, undefined]);

  bench.rules.unloadable.add('vg s');
  await bench.apply([
    wished('o', { ...key, snapshots: ['s', 't'] }),
    wished('s', { ...key, sectors: 9 }),
    wished('t', key),
  ]);
  assert.deepEqual([table(), status()?.readOnly], ['snapshot-origin', true]);
  assert.match(status()?.note ?? '', /^read-only: its snapshot vg\/s can't be loaded/);
  bench.rules.unloadable.clear();
  await bench.apply(first);
  assert.equal(status()?.readOnly, false);
});

test('a longer table that cannot be loaded leaves its volume, and what waits for it, as they are', async () => {
  const bench = await Bench.open(1);
  const key = { shareKey: 'o' };
  const both = (sectors: number): readonly DesiredVolume[] => [
    wished('o', { ...key, snapshots: ['s'] }),
    wished('s', { ...key, sectors }),
  ];
  await bench.apply(both(100));
  bench.rules.unloadable.add('vg s');
  bench.asked();
  for (let scan = 0; scan < 2; scan++) {
    assert.deepEqual(
      (await bench.apply(both(200))).map(({ volume, reason }) => [volume.name, reason]),
      [['vg/s', "its new table can't be loaded: told so by the test"]],
    );
    assert.deepEqual(bench.asked(), ['0 load s', '0 clear s']);
  }
  const told = bench.volumes.status().map(({ name, readOnly, problem }) => [name, readOnly, problem !== undefined]);
  assert.deepEqual(told, [
    ['vg/o', false, false],
    ['vg/s', false, true],
  ]);
  bench.rules.unloadable.clear();
  assert.deepEqual(await bench.apply(both(200)), []);
  assert.deepEqual(bench.states(), [{ 'vg/o': '100', 'vg/s': '200' }]);
  assert.ok(bench.volumes.status().every(({ problem }) => problem === undefined));
});

for (const [rule, how] of [
  ['unloadable', 'be loaded'],
  ['unresumable', 'go live'],
] as const) {
  test(`an origin that did not change takes no writes when its snapshot's table can't ${how}`, async () => {
    const bench = await Bench.open(1);
    const key = { shareKey: 'o' };
    const both = (sectors: number): readonly DesiredVolume[] => [
      wished('o', { ...key, snapshots: ['s'] }),
      wished('s', { ...key, sectors }),
      wished('x', { sectors }),
    ];
    await bench.apply(both(100));
    bench.rules[rule].add('vg s');
    const status = (): ExportStatus | undefined => bench.volumes.status().find(({ name }) => name === 'vg/o');
    for (let scan = 0; scan < 2; scan++) {
      // Half of its extents may be somebody else's now.
      const problems = await bench.apply(both(50));
      assert.ok(problems.some(({ volume }) => volume.name === 'vg/s'));
      assert.deepEqual(bench.states(), [{ 'vg/o': '100', 'vg/x': '50' }]);
      assert.deepEqual([status()?.readOnly, bench.hosts[0]?.volumes.get('vg o')?.live?.readOnly], [true, true]);
      assert.match(status()?.note ?? '', /^read-only: its snapshot vg\/s can't be loaded: told so/);
    }
    bench.rules[rule].clear();
    assert.deepEqual(await bench.apply(both(50)), []);
    assert.deepEqual([status()?.readOnly, bench.states()[0]?.['vg/s']], [false, '50']);
  });
}

for (const unloadable of ['s', 'o']) {
  test(`of an origin and two new snapshots none begins when ${unloadable} can't be loaded`, async () => {
    const bench = await Bench.open(1);
    const key = { shareKey: 'o' };
    await bench.apply([wished('o', key)]);
    bench.rules.unloadable.add(`vg ${unloadable}`);
    const all = [wished('o', { ...key, snapshots: ['s', 't'] }), wished('s', key), wished('t', key)];
    const problems = await bench.apply(all);
    assert.deepEqual(problems.map(({ volume }) => volume.name).toSorted(), ['vg/o', 'vg/s', 'vg/t']);
    const live = bench.hosts[0]?.volumes.get('vg o')?.live;
    assert.deepEqual([live?.table[0]?.target, live?.readOnly, bench.states()], ['linear', false, [{ 'vg/o': '100' }]]);
    bench.rules.unloadable.clear();
    assert.deepEqual(await bench.apply(all), []);
  });
}

test('a new worker that cannot load a snapshot does not let its origin go on either', async () => {
  const bench = await Bench.open(1);
  const key = { shareKey: 'o' };
  await bench.apply([wished('o', { ...key, snapshots: ['s'] }), wished('s', key), wished('x')]);
  bench.rules.unloadable.add('vg s');
  const [first] = bench.hosts;
  first?.die();
  await waitFor('the next worker', () => bench.hosts[0] !== first && bench.states()[0]?.['vg/x'] === '100');
  assert.equal(bench.hosts[0]?.volumes.get('vg o')?.live, null);
  assert.match(bench.volumes.status().find(({ name }) => name === 'vg/o')?.problem ?? '', /its snapshot/);
});
