/**
 * SIGUSR2 while volumes do more than take bytes: snapshots whose origin is written and that are written themselves, a merge, a mirror of
 * pvmove; on image files, and on block devices that are opened with O_EXCL. Nobody loses a connection or a byte, and all of it ends as it would have.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test, type TestContext } from 'node:test';
import { waitFor } from '../helpers/daemon.ts';
import { handOver, pidOf } from '../helpers/hand-over.ts';
import { NbdWriter } from '../helpers/nbd-writer.ts';
import { mustRun, type Outcome } from '../helpers/run.ts';
import { SnapshotStand } from '../helpers/snapshot-stand.ts';
import { statusOf } from './status-of.ts';

const MIB = 2 ** 20;
const ROUNDS = 3;
/** How often something that is to be caught in the middle is begun again, on a machine where it is too fast. */
const TRIES = 5;
/** Enough for a merge to take longer than the start of a process, and for a move to be stopped in the middle. */
const ORIGIN_MIB = 200;

async function moreWrites(writer: NbdWriter, count: number): Promise<void> {
  const before = writer.writes;
  await waitFor('more writes', () => writer.writes > before + count);
}

/** Writes to vg/o until `count` writes were answered, and stops. */
async function written(t: TestContext, stand: SnapshotStand, count: number): Promise<NbdWriter> {
  const { socket } = stand.daemon;
  const writer = new NbdWriter(() => socket, 'vg/o', 32 * MIB);
  t.after(() => writer.stop());
  writer.start();
  await moreWrites(writer, count);
  await writer.stop();
  return writer;
}

async function attributes(stand: SnapshotStand): Promise<readonly string[]> {
  return (await stand.volumes()).map((line) => line.split(' ').slice(0, 2).join(' '));
}

/** Children of a process, and theirs. */
function descendants(pid: number): readonly number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .trim()
    .split(' ')
    .filter(Boolean)
    .map(Number);
  return [...children, ...children.flatMap((child) => descendants(child))];
}

for (const { workers, loops } of [
  { workers: '0', loops: false },
  { workers: '2', loops: true },
]) {
  describe(`--workers ${workers} on ${loops ? 'loop devices' : 'image files'}`, { timeout: 600_000 }, () => {
    test('snapshots that are written, and whose origin is, go along', async (t) => {
      await SnapshotStand.with(
        async (stand) => {
          await stand.serve(workers);
          const writer = await written(t, stand, 2000);
          await stand.must('lvcreate', '-s', '-L60M', '-c4k', '-nkept', 'vg/o');
          await stand.must('lvcreate', '-s', '-L60M', '-nused', 'vg/o');
          const kept = await stand.hash('kept');
          const { reconnects } = writer;
          writer.start();
          // fio has one connection, and reads back what it writes.
          const used = stand.write('used', 24, 1);
          for (let round = 0; round < ROUNDS; round++) {
            await handOver(stand.daemon);
            await moreWrites(writer, 200);
          }
          await used;
          await writer.stop();
          assert.equal(writer.reconnects, reconnects + 1, 'the writer had to connect again');
          await writer.verify();
          assert.equal(await stand.hash('kept'), kept);
          const usedNow = await stand.hash('used');
          assert.deepEqual(await attributes(stand), ['kept swi-a-s---', 'o owi-a-s---', 'used swi-a-s---']);
          await stand.stop();
          await stand.serve(workers);
          assert.deepEqual([await stand.hash('kept'), await stand.hash('used')], [kept, usedNow], 'after a restart');
        },
        { loops },
      );
    });

    test('a merge goes on in the next process, under writes, and ends', async (t) => {
      await SnapshotStand.with(
        async (stand) => {
          await stand.serve(workers);
          const writer = await written(t, stand, 4000);
          const snapshot = (name: string): Promise<string> =>
            stand.must('lvcreate', '-s', '-l110%ORIGIN', '-c4k', `-n${name}`, 'vg/o');
          const merged = (): Promise<void> =>
            waitFor('the end of the merge', async () => !(await stand.volumes()).join().includes('[s]'));
          await snapshot('t');
          const content = await stand.hash('t');
          const fill = `--name=f --ioengine=nbd --uri=${stand.daemon.uri('vg/o')} --rw=write --bs=64k --iodepth=8 --size=${ORIGIN_MIB}m`;
          let { reconnects } = writer;
          for (let tries = 1; ; tries++) {
            await snapshot('s');
            await mustRun('fio', fill.split(' '), { cwd: stand.folder });
            // What is merged is what the writer knows.
            ({ reconnects } = writer);
            await stand.must('lvconvert', '--merge', '-b', 'vg/s');
            writer.start();
            await handOver(stand.daemon);
            if (/^\[s\] S/m.test((await stand.volumes()).join('\n'))) break;
            assert.ok(tries < TRIES, 'no merge was seen to go on: each was too fast');
            await merged();
            await writer.stop();
          }
          await handOver(stand.daemon);
          await moreWrites(writer, 100);
          await merged();
          await handOver(stand.daemon);
          await moreWrites(writer, 100);
          await writer.stop();
          assert.equal(writer.reconnects, reconnects + 1, 'the writer had to connect again');
          await writer.verify();
          assert.equal(await stand.hash('t'), content, 'the other snapshot is what it was');
          assert.deepEqual(
            (await stand.volumes()).map((line) => line.split(' ').slice(0, 2)),
            [
              ['o', 'owi-a-s---'],
              ['t', 'swi-a-s---'],
            ],
          );
        },
        { loops, pvMib: 5 * ORIGIN_MIB, originMib: ORIGIN_MIB },
      );
    });

    test('a move is waited for; one whose command has died goes on as a mirror, and is ended later', async (t) => {
      await SnapshotStand.with(
        async (stand) => {
          const [from = '', to = ''] = stand.pvs;
          const fields = ['--noheadings', '-odevices', 'vg/o'];
          await stand.serve(workers);
          const writer = await written(t, stand, 2000);
          const { reconnects } = writer;
          writer.start();
          const before = await pidOf(stand.daemon);
          const waited = await stoppedMove(stand, from, to);
          const logged = stand.daemon.log().length;
          process.kill(before, 'SIGUSR2');
          await waitFor('its start', () => stand.daemon.log().slice(logged).includes('starting the program again'));
          waited.signal('SIGCONT');
          assert.equal((await waited.end).status, 0);
          await waitFor('the next process', async () => (await pidOf(stand.daemon)) !== before);
          await moreWrites(writer, 200);
          assert.ok((await stand.must('lvs', ...fields)).includes(to));

          const left = await stoppedMove(stand, to, from);
          left.signal('SIGKILL');
          assert.equal((await left.end).status, 5);
          for (let round = 0; round < ROUNDS; round++) {
            await handOver(stand.daemon);
            await moreWrites(writer, 200);
          }
          assert.ok((await stand.volumes()).join().includes('[pvmove0]'));
          await stand.must('pvmove', '-i1');
          await moreWrites(writer, 100);
          await writer.stop();
          assert.equal(writer.reconnects, reconnects + 1, 'the writer had to connect again');
          await writer.verify();
          assert.ok((await stand.must('lvs', ...fields)).includes(from));
        },
        { loops, pvs: 2, originMib: ORIGIN_MIB },
      );
    });
  });
}

interface StoppedMove {
  /** To the process that carries it out. */
  readonly signal: (signal: NodeJS.Signals) => void;
  readonly end: Promise<Outcome>;
}

/** A pvmove whose process is stopped before its move ends; one that was too fast is moved back, and begun again. */
async function stoppedMove(stand: SnapshotStand, from: string, to: string): Promise<StoppedMove> {
  for (let tries = 1; tries <= TRIES; tries++) {
    const move = await beginMove(stand, from, to);
    if (move.stopped) return move;
    move.signal('SIGCONT');
    assert.equal((await move.end).status, 0);
    await stand.must('pvmove', '-i1', to, from);
  }
  throw new Error('no move could be stopped: each was too fast');
}

/** A pvmove whose process is stopped as soon as the move is in the metadata: it commits nothing more, if it was `stopped` in time. */
async function beginMove(
  stand: SnapshotStand,
  from: string,
  to: string,
): Promise<StoppedMove & { readonly stopped: boolean }> {
  const seqno = async (): Promise<number> => (await statusOf(stand.daemon)).volumeGroups[0]?.seqno ?? 0;
  const before = await seqno();
  const end = stand.run('pvmove', '-i1', from, to);
  const daemon = await pidOf(stand.daemon);
  // As fast as it can be seen.
  while ((await seqno()) === before) continue;
  const commands = descendants(daemon).filter((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('hosted'));
  const signal = (name: NodeJS.Signals): void => commands.forEach((pid) => process.kill(pid, name));
  signal('SIGSTOP');
  return { signal, end, stopped: commands.length > 0 && (await seqno()) === before + 1 };
}

test('nobody else gets a block device while it changes hands', { timeout: 60_000 }, async () => {
  await SnapshotStand.with(
    async (stand) => {
      await stand.serve('1');
      const script =
        'import os, sys\ntry:\n  os.open(sys.argv[1], os.O_RDWR | os.O_EXCL)\n  print("free")\nexcept OSError as e:\n  print(e.errno)';
      const open = async (): Promise<string> => (await mustRun('python3', ['-c', script, stand.image])).trim();
      assert.equal(await open(), '16', 'EBUSY');
      const before = await pidOf(stand.daemon);
      process.kill(before, 'SIGUSR2');
      const found = new Set<string>();
      await waitFor('the next process', async () => {
        found.add(await open());
        return (await pidOf(stand.daemon)) !== before;
      });
      found.add(await open());
      assert.deepEqual([...found], ['16']);
    },
    { loops: true },
  );
});
