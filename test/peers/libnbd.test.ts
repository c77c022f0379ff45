/**
 * libnbd's own interoperability programs and examples, of its current release, against the daemon. They start the server themselves, by
 * systemd's socket activation or on a pair of sockets as inetd would, and bring what they expect: sizes, extents, a name.
 *
 * Left out, and why: `structured-read` wants an export of 3072 bytes with a hole of 512, smaller than the blocks in which an image file
 * knows holes; `block-status-payload` wants `qemu:allocation-depth`, which is about backing files.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { libnbdProgram, libnbdTree } from '../helpers/nbd-programs.ts';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';
import { makeGroup } from './small-group.ts';

const DAEMON = join(CHECKOUT, 'bin/orion-lvmd');

/** A C string, or several as the elements of an array. */
function quoted(...words: readonly string[]): string {
  return words.map((word) => JSON.stringify(word)).join(', ');
}

describe('libnbd', () => {
  let folder = '';
  let image = '';
  let server: readonly string[] = [];

  /** Compiles a program that is told its server when it is compiled. */
  const compiled = (name: string, params: readonly string[], defines: readonly string[] = []): Promise<string> =>
    libnbdProgram(name, join(folder, basename(name)), [
      `SERVER=${quoted(DAEMON)}`,
      `SERVER_PARAMS=${quoted(...params)}`,
      ...defines,
    ]);
  /** Runs a program in a process group of its own: one that fails leaves its server behind. */
  const passes = async (program: string, ...args: readonly string[]): Promise<void> => {
    const child = spawn(program, args, { cwd: folder, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
    const closed = once(child, 'close');
    const [status] = (await once(child, 'exit')) as [number | null];
    if (status !== 0) process.kill(-child.pid!, 'SIGKILL');
    await closed;
    assert.equal(status, 0, `${program} ${args.join(' ')}\n${output}`);
  };

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'orion-lvm-libnbd-'));
    image = await makeGroup(folder, [{ name: 'lv', size: '1m' }]);
    server = ['--devices', image, '--control', join(folder, 'control.sock'), '--workers', '0'];
  });
  after(async () => {
    await rm(folder, { recursive: true, force: true });
  });

  test('socket-activation', async () => {
    await passes(await compiled('interop/socket-activation', server));
  });

  test('list-exports', async () => {
    const defines = [
      'SOCKET_ACTIVATION=1',
      `EXPORTS=${quoted('vg/lv')}`,
      `DESCRIPTIONS=${quoted('1 MiB linear logical volume of volume group vg')}`,
    ];
    await passes(await compiled('interop/list-exports', server, defines));
  });

  test('opt-extended-headers', async () => {
    const program = await libnbdProgram('interop/opt-extended-headers', join(folder, 'opt-extended-headers'));
    await passes(program, DAEMON, ...server);
  });

  test('interop: write, flush and zero are in the backing file', async () => {
    // It looks into the file that it gave its server. Ours has the volume's bytes at an offset, which is told to it here.
    const tree = await libnbdTree();
    const look = 'fd = open (TMPFILE, O_RDONLY);';
    const source = await readFile(join(tree, 'interop/interop.c'), 'utf8');
    assert.ok(source.includes(look));
    const offset = await mustRun(join(CHECKOUT, 'bin/pvs'), [
      '--devices',
      image,
      '--noheadings',
      '--nosuffix',
      '--units',
      'b',
      '-o',
      'pe_start',
    ]);
    const text = source.replaceAll(
      look,
      `fd = open (${quoted(image)}, O_RDONLY); lseek (fd, ${Number(offset)}, SEEK_SET);`,
    );
    await writeFile(join(folder, 'interop.c'), text.replaceAll('"../tests/requires.h"', '"requires.h"'));
    const options = [
      `SERVER=${quoted(DAEMON)}`,
      `SERVER_PARAMS=${quoted(...server)}`,
      `EXPORT_NAME=${quoted('vg/lv')}`,
    ];
    const program = await libnbdProgram(join(folder, 'interop'), join(folder, 'interop'), [
      ...options,
      'SOCKET_ACTIVATION=1',
    ]);
    await passes(program);
    const inetd = [
      ...options.filter((option) => !option.startsWith('SERVER_PARAMS')),
      `SERVER_PARAMS=${quoted(...server, '--stdio')}`,
    ];
    await passes(await libnbdProgram(join(folder, 'interop'), join(folder, 'interop-stdio'), inetd));
  });
});
