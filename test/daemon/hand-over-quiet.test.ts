/** What a daemon waits for before it hands everything over: nothing of its volumes changes when its workers are told to be quiet. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lostOf } from '../../src/daemon/handover/follow.ts';
import { handOver } from '../../src/daemon/handover/hand-over.ts';
import type { FromSuccessor } from '../../src/daemon/handover/messages.ts';
import type { Inventory } from '../../src/daemon/inventory.ts';
import { Gate } from '../../src/nbd/gate.ts';
import type { NbdAddress } from '../../src/nbd/listener.ts';
import { waitFor } from '../helpers/daemon.ts';
import { Bench, LOG, wished } from './volume-bench.ts';

/** What the last scan found: nothing. */
const NOTHING: Inventory = {
  scan: { devices: [], volumeGroups: [], orphans: [], duplicates: [], unreadable: [], warnings: [] },
  volumes: [],
  devices: [],
  groups: new Map(),
  waiting: new Set(),
};

/** Hands over to nobody; `quiet`: what workers say when they are to be quiet. */
function toNobody(bench: Bench, quiet: () => Promise<string | null> = () => Promise.resolve(null)): Promise<void> {
  const { pool, volumes } = bench;
  const control = {
    gate: new Gate<null>(),
    holdCommands: () => Promise.resolve([]),
    admitCommands: () => undefined,
    answered: () => Promise.resolve(),
  };
  const nbd = {
    gate: new Gate<NbdAddress>(),
    nextId: 100,
    settled: () => Promise.resolve(),
    endNegotiations: () => Promise.resolve(),
  };
  const workers = {
    quiesce() {
      bench.rules.log.push('quiet');
      return quiet();
    },
    goOn: () => pool.goOn(),
    lossAmong: (): null => null,
    release: () => pool.release(),
    drain: () => pool.drain(),
  };
  const said: readonly FromSuccessor[] = [{ kind: 'ready' }, { kind: 'looked', lost: [] }, { kind: 'serving' }];
  const successor = {
    hear: <Kind extends FromSuccessor['kind']>(kind: Kind) => {
      const answer = said.find((message) => message.kind === kind);
      return Promise.resolve(answer as Extract<FromSuccessor, { readonly kind: Kind }>);
    },
    say: () => undefined,
    mustLive: () => undefined,
    end: () => Promise.resolve(),
    kill: () => undefined,
    give: () => Promise.resolve(),
    given: () => Promise.resolve(),
  };
  const rest = { inventory: () => NOTHING, knowledge: () => ({ decisions: new Map(), added: [] }), patience: {} };
  const own = { inTurn: (work: () => Promise<void>) => work(), letGo: () => Promise.resolve(), log: LOG };
  return handOver({ workers, volumes, nbd, control, ...rest, ...own }, successor);
}

test('the change of a VG is waited for that the last scan did not find', async () => {
  const bench = await Bench.open(2);
  await bench.apply([wished('a'), wished('b')]);
  const slow = Promise.withResolvers<void>();
  const [host] = bench.hosts;
  assert(host !== undefined);
  const load = host.load.bind(host);
  host.load = async (specs) => {
    await slow.promise;
    return load(specs);
  };
  bench.asked();
  const changed = bench.apply([wished('a', { sectors: 200 }), wished('b')]);
  const handed = toNobody(bench);
  slow.resolve();
  await Promise.all([changed, handed]);
  assert.deepEqual(bench.asked(), ['0 load a', '0 swap a', 'quiet']);
});

test('nobody is moved to another worker any more, and whoever was to be is when everything stays here', async () => {
  const bench = await Bench.open(2);
  await bench.apply([wished('a')]);
  await bench.client(1, 'vg/a').done;
  const [home] = bench.hosts;
  const [request] = home?.requests.values() ?? [];
  assert(home !== undefined && request !== undefined);
  for (const connection of [2, 3, 4]) await bench.volumes.clients.resumeClient({ ...request, connection }, {});
  bench.asked();
  const quiet = async (): Promise<string> => {
    bench.volumes.branches.spread();
    await bench.volumes.settled();
    assert.deepEqual(bench.asked(), ['quiet']);
    return 'a device hangs';
  };
  await assert.rejects(toNobody(bench, quiet), /a device hangs/);
  await waitFor('them to be spread', () => bench.hosts[1]?.requests.size === 2);
  assert.equal(home.requests.size, 2);
});

test('what is to be served by whoever follows is on the same devices', () => {
  const on = (identity: string): Inventory => {
    const { plan, ...volume } = wished('a');
    assert(plan.active);
    return { ...NOTHING, volumes: [{ ...volume, plan: { ...plan, disks: new Map([['uuid', identity]]) } }] };
  };
  const served = new Map([['vg a', { id: 'vg a', key: '100', readOnly: false }]]);
  const known = { inventory: on('file:1:2'), served, decisions: new Map(), added: [] };
  assert.deepEqual(lostOf(known, on('file:1:2')), []);
  const reason = 'physical volume uuid is another device now';
  assert.deepEqual(lostOf(known, on('file:1:3')), [{ name: 'vg/a', reason }]);
  assert.equal(lostOf(known, NOTHING)[0]?.name, 'vg/a');
});
