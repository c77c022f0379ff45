/**
 * A volume that several workers serve, under a real client with four connections that verifies what it reads, while commands change it:
 * every change finds the clients at one worker, nobody is let go, and afterwards they are spread again.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { exportOf } from '../daemon/status-of.ts';
import { waitFor } from '../helpers/daemon.ts';
import { SnapshotStand } from '../helpers/snapshot-stand.ts';

const CLIENTS = 4;
const SECONDS = 20;

async function isSpread({ daemon }: SnapshotStand, name: string): Promise<boolean> {
  const { workers = [], clients } = await exportOf(daemon, name);
  return clients === CLIENTS && workers.length === 2;
}

test('four connections through every change of the volume', { timeout: 300_000 }, async () => {
  await SnapshotStand.with(
    async (stand) => {
      await stand.serve('2');
      const job = `--name=f --ioengine=nbd --uri=${stand.daemon.uri('vg/o')} --rw=randwrite --bs=3k`;
      const four = `--numjobs=${CLIENTS} --thread --iodepth=16 --size=8m --offset_increment=8m --fsync=64`;
      const verify = '--verify=crc32c --verify_fatal=1 --verify_backlog=256 --verify_state_save=0';
      const time = `--time_based --runtime=${SECONDS} --group_reporting`;
      const args = `${job} ${four} ${verify} ${time}`.split(' ');
      const fio = spawn('fio', args, { cwd: stand.folder, stdio: ['ignore', 'pipe', 'pipe'] });
      let output = '';
      for (const stream of [fio.stdout, fio.stderr]) stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
      const ended = once(fio, 'close');
      const runs = (): boolean => fio.exitCode === null && fio.signalCode === null;
      const spread = async (name: string): Promise<boolean> => {
        await waitFor(
          `${name} to be with two workers\n${output}`,
          async () => !runs() || (await isSpread(stand, name)),
        );
        return runs();
      };
      let cycles = 0;
      try {
        while (await spread('vg/o')) {
          await stand.must('lvextend', '-L+4m', 'vg/o');
          if (!(await spread('vg/o'))) break;
          await stand.must('lvcreate', '-s', '-L48m', '-ns', 'vg/o');
          const { workers } = await exportOf(stand.daemon, 'vg/o');
          assert.equal(workers, undefined, 'an origin is with one worker');
          await stand.must('lvremove', '-f', 'vg/s');
          if (!(await spread('vg/o'))) break;
          await stand.must('lvreduce', '-f', '-L-4m', 'vg/o');
          if (!(await spread('vg/o'))) break;
          await stand.must('lvrename', 'vg', 'o', 'p');
          assert.ok(!runs() || (await isSpread(stand, 'vg/p')), 'a name changes nothing else');
          await stand.must('lvrename', 'vg', 'p', 'o');
          await stand.must('lvchange', '--refresh', 'vg/o');
          cycles++;
        }
        const [code] = (await ended) as [number | null];
        assert.equal(code, 0, output);
      } finally {
        fio.kill('SIGKILL');
      }
      assert.ok(cycles > 0, 'not one round of changes');
      assert.doesNotMatch(stand.daemon.log(), /client was lost|could not be flushed|is started again/);
    },
    { originMib: 40, pvMib: 128 },
  );
});
