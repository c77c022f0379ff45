/**
 * nbd's own test client, nbd-tester-client, against the daemon: every case of its suite that says something about a server, with the
 * options that nbd's `tests/run/simple_test` gives it. The rest of that suite is about nbd-server's configuration file.
 */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type RunningDaemon, startDaemon } from '../helpers/daemon.ts';
import { nbdTesterDirectory } from '../helpers/nbd-programs.ts';
import { runProgram } from '../helpers/run.ts';
import { makeGroup } from './small-group.ts';

const CASES: readonly { readonly name: string; readonly volume: string; readonly args: readonly string[] }[] = [
  { name: 'cfg1: reads of a whole volume', volume: 'small', args: [] },
  { name: 'cfgsize: requests larger than a server must take', volume: 'small', args: ['-o'] },
  { name: 'write: writes of a whole volume', volume: 'small', args: ['-w'] },
  { name: 'flush: writes with FLUSH and FUA', volume: 'small', args: ['-w', '-f'] },
  { name: 'rowrite: writes to a read-only volume fail', volume: 'readonly', args: ['-w', '-F'] },
  { name: 'handshake: options in every order', volume: 'small', args: ['-h'] },
  { name: 'integrity: a recorded file system load', volume: 'big', args: ['-i', '-t', 'integrity-test.tr'] },
  { name: 'integrityhuge: the same with huge requests', volume: 'huge', args: ['-i', '-t', 'integrityhuge-test.tr'] },
];

describe('nbd-tester-client', () => {
  let folder = '';
  let tester = '';
  let daemon: RunningDaemon;

  before(async () => {
    tester = await nbdTesterDirectory();
    folder = await mkdtemp(join(tmpdir(), 'orion-lvm-tester-'));
    const image = await makeGroup(folder, [
      // Each recorded load begins with zeroes.
      { name: 'big', size: '50m' },
      { name: 'huge', size: '50m' },
      { name: 'small', size: '4m' },
      { name: 'readonly', size: '4m', options: ['--permission', 'r'] },
    ]);
    daemon = await startDaemon([image]);
  });
  after(async () => {
    assert.equal(await daemon.stop(), 0, daemon.log());
    await rm(folder, { recursive: true, force: true });
  });

  for (const { name, volume, args } of CASES)
    test(name, async () => {
      const all = ['-N', `vg/${volume}`, ...args, '-u', daemon.socket];
      const { status, stderr } = await runProgram('./nbd-tester-client', all, { cwd: tester });
      assert.equal(status, 0, `nbd-tester-client ${all.join(' ')}\n${stderr.slice(-2000)}\n${daemon.log()}`);
    });
});
