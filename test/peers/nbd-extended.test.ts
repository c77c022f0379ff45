/**
 * Extended headers with a current libnbd (Debian 12's is too old for them), through the real daemon: the session's state goes from the
 * supervisor to a worker.
 */
import assert from 'node:assert/strict';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type RunningDaemon, startDaemon } from '../helpers/daemon.ts';
import { libnbdTree } from '../helpers/nbd-programs.ts';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';

const GIB = 2 ** 30;
/** On the first PV, then on the second. */
const FIRST = 11 * GIB;
const SIZE = 13 * GIB;
const LENGTH = 12 * GIB;

describe('libnbd with extended headers', () => {
  let folder = '';
  let program = '';
  let nbdinfo = '';
  let daemon: RunningDaemon;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'orion-extended-'));
    program = join(folder, 'nbd-extended');
    const tree = await libnbdTree();
    nbdinfo = join(tree, 'info/nbdinfo');
    const libraries = [join(tree, 'lib/.libs/libnbd.a'), '-lgnutls', '-lxml2', '-lpthread'];
    const source = join(CHECKOUT, 'test/peers/nbd-extended.c');
    await mustRun('gcc', [
      '-O1',
      '-Wall',
      '-Werror',
      `-I${join(tree, 'include')}`,
      source,
      '-o',
      program,
      ...libraries,
    ]);
    const [a, b] = [join(folder, 'a.img'), join(folder, 'b.img')];
    for (const [path, gib] of [
      [a, 12],
      [b, 3],
    ] as const) {
      await writeFile(path, '');
      await truncate(path, gib * GIB);
    }
    const config = join(folder, 'lvm.toml');
    await writeFile(config, `devices = ["a.img", "b.img"]\nrun_dir = "${folder}"\n`);
    const lvm = (...words: readonly string[]): Promise<string> =>
      mustRun(join(CHECKOUT, 'bin/orion-lvm'), [...words, '--config', config]);
    await lvm('pvcreate', '-q', a, b);
    await lvm('vgcreate', '-q', 'vg', a, b);
    await lvm('lvcreate', '-q', '-n', 'big', '-L', '11G', 'vg', a);
    await lvm('lvextend', '-q', '-L', '+2G', 'vg/big', b);
    daemon = await startDaemon([a, b], ['--workers', '1']);
  });
  after(async () => {
    assert.equal(await daemon.stop(), 0, daemon.log());
    await rm(folder, { recursive: true, force: true });
  });

  test('agrees on them, and one request covers 12 GiB', async () => {
    const lines = (await mustRun(program, [daemon.uri('vg/big'), String(LENGTH)])).trim().split('\n');
    const told = (what: string): string[] => lines.filter((line) => line.startsWith(`${what} `));
    assert.deepEqual(told('extended headers'), ['extended headers 1']);
    assert.deepEqual(told('block status payload'), ['block status payload 1']);
    const segments = (what: string): string[] => [
      `${what} x-orion:segment 512 ${FIRST - 512} 1001001`,
      `${what} x-orion:segment ${FIRST} ${LENGTH + 512 - FIRST} 2002001`,
    ];
    assert.deepEqual(told('all'), [`all base:allocation 512 ${LENGTH} 3`, ...segments('all')]);
    assert.deepEqual(
      told('one'),
      ['one 0', `one base:allocation 512 ${LENGTH} 3`, ...segments('one').slice(0, 1)].slice(1).concat('one 0'),
    );
    assert.deepEqual(told('filter'), [...segments('filter'), 'filter 0']);
    for (const what of ['trim', 'zero', 'write', 'flush', 'shutdown']) assert.deepEqual(told(what), [`${what} 0`]);
    assert.equal(lines.at(-1), 'shutdown 0');
  });

  test('nbdinfo maps all of it', async () => {
    assert.match(await mustRun(nbdinfo, [daemon.uri('vg/big')]), /using extended packets/);
    const map = (await mustRun(nbdinfo, ['--map=x-orion:segment', daemon.uri('vg/big')])).trim().split('\n');
    assert.deepEqual(
      map.map((line) => line.trim().split(/\s+/)),
      [
        ['0', String(FIRST), '1001001'],
        [String(FIRST), String(SIZE - FIRST), '2002001'],
      ],
    );
  });
});
