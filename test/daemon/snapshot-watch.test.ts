/** What the daemon does for its snapshots by itself: which command it runs when, and when it does not run it again. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { CommandEvent, CommandRequest } from '../../src/daemon/client/messages.ts';
import { createLog } from '../../src/daemon/log.ts';
import { type ServedSnapshot, SnapshotWatch } from '../../src/daemon/snapshot-watch.ts';
import type { WorkerVolume } from '../../src/daemon/worker/host.ts';

interface Lab {
  readonly watch: SnapshotWatch;
  /** Command lines that were run. */
  readonly ran: string[];
  /** Ends the command that runs. */
  end(code: number, said?: string): Promise<void>;
  details: Record<string, unknown>;
  merges: boolean;
  seqno: number;
  threshold: number;
  monitoring: boolean;
}

const VALID = { state: 'valid', usedSectors: 80, totalSectors: 100, metadataSectors: 10 };

function lab(details: Record<string, unknown> = VALID): Lab {
  let running: ((event: CommandEvent) => void) | null = null;
  const ran: string[] = [];
  const host = {
    volumeStatus(id: string): Promise<WorkerVolume | null> {
      const target = made.merges ? 'snapshot-merge' : 'snapshot';
      const lines = [{ start: 0, length: 8, target, text: '', details: made.details, layers: [] }];
      return Promise.resolve({ id, name: 'vg/s', lines } as unknown as WorkerVolume);
    },
  };
  const served = (): readonly ServedSnapshot[] => [{ id: 'V s', name: 'vg/s', merges: made.merges, host }];
  const watch = new SnapshotWatch({
    served,
    policy: () => ({ monitoring: made.monitoring, threshold: made.threshold }),
    seqnoOf: () => made.seqno,
    runner: {
      start(request: CommandRequest, listener: (event: CommandEvent) => void) {
        ran.push([request.name, ...request.argv].join(' '));
        assert.equal(running, null, 'one at a time');
        running = listener;
        return { id: '1', answer: () => undefined, cancel: () => undefined };
      },
    },
    own: () => ({ configFile: null, devices: ['/dev/x'] }),
    log: createLog({ level: 'silent', format: 'json' }),
  });
  const made: Lab = {
    watch,
    ran,
    async end(code, said) {
      const listener = running;
      running = null;
      if (said !== undefined) listener?.({ type: 'stderr', text: said });
      listener?.({ type: 'exit', code });
      await new Promise(setImmediate);
    },
    details,
    merges: false,
    seqno: 1,
    threshold: 70,
    monitoring: true,
  };
  return made;
}

describe('a store that fills up', () => {
  test('is extended once it is fuller than the threshold', async () => {
    const made = lab({ ...VALID, usedSectors: 70 });
    await made.watch.look();
    assert.deepEqual(made.ran, []);
    made.details = VALID;
    await made.watch.look();
    await made.watch.look();
    assert.deepEqual(made.ran, ['lvextend --use-policies vg/s']);
    made.details = { ...VALID, totalSectors: 110 };
    made.seqno++;
    await made.end(0);
    await made.watch.look();
    assert.equal(made.ran.length, 2, 'it is still too full');
    await made.end(0);
  });

  test('is tried again when something has changed, and told until then', async () => {
    const made = lab();
    await made.watch.look();
    await made.end(5, '  Insufficient free space\n');
    assert.deepEqual(made.watch.problems, [
      { kind: 'snapshot-not-extended', name: 'vg/s', reason: 'Insufficient free space' },
    ]);
    await made.watch.look();
    made.details = { ...VALID, usedSectors: 84 };
    await made.watch.look();
    assert.equal(made.ran.length, 1);
    made.details = { ...VALID, usedSectors: 85 };
    await made.watch.look();
    assert.equal(made.ran.length, 2, '5 % fuller');
    await made.end(5);
    made.seqno++;
    await made.watch.look();
    assert.equal(made.ran.length, 3, 'the volume group has changed');
    await made.end(0);
    assert.deepEqual(made.watch.problems, []);
  });

  test('is left alone where lvm.conf says so, and below 50 % in any case', async () => {
    const made = lab();
    made.monitoring = false;
    await made.watch.look();
    made.monitoring = true;
    made.threshold = 100;
    await made.watch.look();
    made.threshold = 10;
    made.details = { ...VALID, usedSectors: 50 };
    await made.watch.look();
    made.details = { ...VALID, state: 'invalid' };
    await made.watch.look();
    assert.deepEqual(made.ran, []);
  });
});

describe('a merge', () => {
  test('is ended when all is merged, whatever lvm.conf says', async () => {
    const made = lab({ ...VALID, merged: false });
    made.merges = true;
    made.monitoring = false;
    await made.watch.look();
    assert.deepEqual(made.ran, []);
    made.details = { ...VALID, merged: true };
    await made.watch.look();
    await made.watch.look();
    assert.deepEqual(made.ran, ['lvpoll --polloperation merge --interval 0 vg/s']);
    await made.end(5);
    await made.watch.look();
    assert.equal(made.ran.length, 1, 'not at once again');
  });

  test('that has stopped is told, and nothing is run', async () => {
    const made = lab({ ...VALID, merged: false, mergeFailed: true, mergeProblem: 'the disk is broken' });
    made.merges = true;
    await made.watch.look();
    assert.deepEqual(made.watch.problems, [{ kind: 'merge-stopped', name: 'vg/s', reason: 'the disk is broken' }]);
    assert.deepEqual(made.ran, []);
    made.details = { ...VALID, merged: false };
    await made.watch.look();
    assert.deepEqual(made.watch.problems, []);
  });
});
