/** What commands ask of the daemon: volumes in use are respected, held off while they change, and let go on however it ends. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { DeferredMerges } from '../../src/daemon/deferred-merges.ts';
import { createLog } from '../../src/daemon/log.ts';
import { DaemonVolumes, type LiveDaemon } from '../../src/daemon/live.ts';
import type { VolumeClients } from '../../src/daemon/volume-clients.ts';
import type { VolumeSet } from '../../src/daemon/volumes.ts';
import type { LiveChange, LiveProblem } from '../../src/lvm/live.ts';

interface Lab {
  readonly live: DaemonVolumes;
  /** What was asked, in order. */
  readonly log: string[];
  /** Clients, by volume. */
  readonly clients: Map<string, number>;
  readonly problems: LiveProblem[];
  stuck: string | null;
}

function lab(): Lab {
  const log: string[] = [];
  const clients = new Map<string, number>();
  const noted = (line: string): Promise<void> => {
    log.push(line);
    return Promise.resolve();
  };
  const volumes = {
    setChanging: () => undefined,
    heldOf: () => [],
    liveStatus: () => new Map(),
    hostsOf: () => new Map(),
    openCount: (id: string) => clients.get(id) ?? 0,
    clients: {
      block: (ids: readonly string[]) => void (ids.length > 0 && log.push(`block ${ids.join()}`)),
      release: (ids: readonly string[]) => void (ids.length > 0 && log.push(`release ${ids.join()}`)),
    } as Partial<VolumeClients> as VolumeClients,
    disconnect(id: string) {
      log.push(`disconnect ${id}`);
      clients.delete(id);
      return Promise.resolve(true);
    },
    suspend(ids: readonly string[]) {
      if (ids.length > 0) log.push(`suspend ${ids.join()}`);
      return Promise.resolve(ids.flatMap((id) => (id === made.stuck ? [{ id, problem: 'its device hangs' }] : [])));
    },
    resume: (ids: readonly string[]) => (ids.length === 0 ? Promise.resolve() : noted(`resume ${ids.join()}`)),
  };
  const problems: LiveProblem[] = [];
  const daemon: LiveDaemon = {
    volumes: volumes as Partial<VolumeSet> as VolumeSet,
    readOnly: false,
    holds: () => true,
    loseFlushes: () => undefined,
    async refresh(vgIds) {
      await noted(`refresh ${[...vgIds].join()} changing ${[...vgIds].map((id) => made.live.isChanging(id)).join()}`);
      return problems;
    },
    rescan: () => noted('rescan'),
    settled: () => noted('settled'),
    expect: () => undefined,
    lookAt: () => undefined,
    nameOf: () => null,
    moves: () => [],
    deferred: new DeferredMerges({
      path: null,
      isServed: () => true,
      log: createLog({ level: 'silent', format: 'json' }),
    }),
  };
  const made: Lab = { live: new DaemonVolumes(daemon), log, clients, problems, stuck: null };
  return made;
}

function change(fields: Partial<LiveChange> = {}): LiveChange {
  const groups = [{ id: 'V', name: 'vg', seqnoBefore: 1, seqnoAfter: 2 }];
  return {
    key: 'k',
    groups,
    joining: [],
    leaving: [],
    losing: [],
    unused: [],
    deferred: [],
    decisions: [],
    force: false,
    ...fields,
  };
}

const A = { id: 'V a', name: 'vg/a' };
const B = { id: 'V b', name: 'vg/b' };

describe('a commit', () => {
  test('holds off who leaves and suspends who loses, from before it until volumes follow', async () => {
    const { live, log } = lab();
    const commit = change({ leaving: [A], losing: [B], decisions: [{ volume: B, active: false }] });
    await live.prepare(commit);
    assert.deepEqual(log.splice(0), ['block V a', 'settled', 'suspend V b']);
    assert.ok(live.isChanging('V') && !live.isChanging('W'));
    await live.committed(commit);
    assert.deepEqual(log.splice(0), ['refresh V changing true', 'release V a', 'resume V b']);
    assert.ok(!live.isChanging('V'));
    assert.deepEqual([...live.decisions], [['V b', false]]);
    await live.committed(commit);
    assert.deepEqual(log, ['refresh V changing false'], 'what has ended ends nothing again');
  });

  test('of a volume in use is refused with its name, and leaves nothing held', async () => {
    const { live, log, clients } = lab();
    clients.set('V a', 2);
    await assert.rejects(live.prepare(change({ leaving: [B, A] })), /^CommandError: Logical volume vg\/a in use\.$/);
    assert.deepEqual(log.splice(0), ['block V b,V a', 'settled', 'release V b,V a']);
    assert.ok(!live.isChanging('V'));
    await live.prepare(change({ leaving: [A], force: true }));
    assert.deepEqual(log, ['block V a', 'settled', 'disconnect V a']);
  });

  test('is refused when a device hangs that has to be quiet', async () => {
    const made = lab();
    made.stuck = 'V b';
    await assert.rejects(made.live.prepare(change({ losing: [A, B] })), /vg\/b cannot be suspended: its device hangs/);
    assert.deepEqual(made.log, ['settled', 'suspend V a,V b', 'resume V a,V b']);
  });

  test('that was not made is undone, after the group was read again', async () => {
    const { live, log } = lab();
    const commit = change({ leaving: [A], losing: [B], decisions: [{ volume: A, active: true }] });
    await live.prepare(commit);
    log.length = 0;
    await live.abandoned(commit);
    assert.deepEqual(log, ['refresh V changing true', 'release V a', 'resume V b']);
    assert.equal(live.decisions.size, 0);
  });
});

test('deactivation respects clients; a decision holds until the next one', async () => {
  const { live, log, clients } = lab();
  const off = { vgId: 'V', decisions: [{ volume: A, active: false }], refresh: [], force: false };
  clients.set('V a', 1);
  await assert.rejects(live.activate(off), /vg\/a in use/);
  assert.deepEqual(log.splice(0), ['block V a', 'release V a']);
  assert.equal(live.decisions.size, 0);
  clients.clear();
  await live.activate(off);
  assert.deepEqual(log.splice(0), ['block V a', 'refresh V changing false', 'release V a']);
  assert.deepEqual([...live.decisions], [['V a', false]]);
  await live.activate({ ...off, decisions: [{ volume: A, active: true }] });
  assert.deepEqual([...live.decisions], [['V a', true]]);
});
