/**
 * nbd's own test client, nbd-tester-client, against the daemon: every case of its suite that says something about a server, with the
 * options that nbd's `tests/run/simple_test` gives it. The rest of that suite is about nbd-server's configuration file.
 */
import assert from 'node:assert/strict';
import { copyFile, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type RunningDaemon, startDaemon } from '../helpers/daemon.ts';
import { nbdTesterDirectory } from '../helpers/nbd-programs.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';
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
  let image = '';
  let secure = '';
  let daemon: RunningDaemon;

  before(async () => {
    tester = await nbdTesterDirectory();
    folder = await mkdtemp(join(tmpdir(), 'orion-lvm-tester-'));
    image = await makeGroup(folder, [
      // Each recorded load begins with zeroes.
      { name: 'big', size: '50m' },
      { name: 'huge', size: '50m' },
      { name: 'secret', size: '50m' },
      { name: 'small', size: '4m' },
      { name: 'readonly', size: '4m', options: ['--permission', 'r'] },
    ]);
    const orion = join(CHECKOUT, 'bin/orion-lvm');
    await mustRun(orion, ['tls', 'init', '--dir', join(folder, 'tls'), '--host', 'localhost', '--client', 'alice']);
    await mustRun(orion, ['tls', 'init', '--dir', join(folder, 'other'), '--host', 'localhost', '--client', 'mallory']);
    secure = join(folder, 'secure.sock');
    const tls = ['--tls-certificates', join(folder, 'tls'), '--tls-verify-clients'];
    daemon = await startDaemon([image], ['--listen', `unix:${secure}?tls=required`, ...tls]);
  });
  after(async () => {
    assert.equal(await daemon.stop(), 0, daemon.log());
    await rm(folder, { recursive: true, force: true });
  });

  const passes = async (volume: string, ...args: readonly string[]): Promise<void> => {
    const all = ['-N', `vg/${volume}`, ...args];
    const { status, stderr } = await runProgram('./nbd-tester-client', all, { cwd: tester });
    assert.equal(status, 0, `nbd-tester-client ${all.join(' ')}\n${stderr.slice(-2000)}\n${daemon.log()}`);
  };
  const credentials = (directory: string, client: string): string[] => {
    const file = (name: string): string => join(folder, directory, client, name);
    return [
      '-C',
      file('client-cert.pem'),
      '-K',
      file('client-key.pem'),
      '-A',
      join(folder, 'tls/ca-cert.pem'),
      '-H',
      'localhost',
    ];
  };

  for (const { name, volume, args } of CASES) test(name, () => passes(volume, ...args, '-u', daemon.socket));

  test('tls: the recorded load over TLS', () =>
    passes('secret', '-i', '-t', 'integrity-test.tr', ...credentials('tls', 'alice'), '-u', secure));

  test('tlswrongcert: a certificate of another authority', () =>
    passes('secret', '-F', '-t', 'integrity-test.tr', ...credentials('other', 'mallory'), '-u', secure));

  test('inetd: a server on standard input', async () => {
    const copy = join(folder, 'copy.img');
    await copyFile(image, copy);
    const server = [
      join(CHECKOUT, 'bin/orion-lvmd'),
      '--devices',
      copy,
      '--control',
      join(folder, 'other.sock'),
      '--stdio',
    ];
    // The server inherits standard output, which is not the client's connection: as nbd-server, ours must speak on standard input.
    const shell = 'exec ./nbd-tester-client -N vg/small -I -- "$@" >/dev/null';
    await mustRun('sh', ['-c', shell, 'sh', ...server], { cwd: tester });
  });
});
