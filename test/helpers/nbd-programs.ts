/**
 * Current programs of libnbd and QEMU (Debian 12 has releases from before extended headers) and nbd's own nbd-tester-client, from
 * Debian 13's source packages and Debian 12's backports. `test/setup` builds them (`node test/helpers/nbd-programs.ts`); tests find them built.
 *
 * Invariants
 *  - Nothing is installed: the programs are linked with libnbd's static library and run from the tests' cache.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { cachedPackage, cachedSource } from './debian-source.ts';

const execute = promisify(execFile);

/** libnbd's tree, with `info/nbdinfo`, `copy/nbdcopy` and `lib/.libs/libnbd.a` built. */
export async function libnbdTree(): Promise<string> {
  const source = { name: 'libnbd', suite: 'trixie', otherwise: 'the tests need its source' };
  return cachedSource('libnbd-trixie', source, async (tree) => {
    const without = ['ocaml', 'golang', 'rust', 'python', 'fuse', 'ublk'].map((part) => `--disable-${part}`);
    await build(tree, './configure', ['--disable-shared', '--enable-static', ...without]);
    for (const part of ['common/utils', 'lib', 'info', 'copy']) await build(tree, 'make', ['-C', part]);
  });
}

/**
 * One of libnbd's C programs (`interop/list-exports`, `examples/get-size`, or a path, without `.c`), compiled to `output`.
 * @param defines what its Makefile would define: the server that it is to start.
 */
export async function libnbdProgram(name: string, output: string, defines: readonly string[] = []): Promise<string> {
  const tree = await libnbdTree();
  const sources = [resolve(tree, `${name}.c`), join(tree, 'tests/requires.c')];
  const include = ['', 'include', 'common/include', 'tests', 'interop'].map((part) => `-I${join(tree, part)}`);
  const libraries = [join(tree, 'lib/.libs/libnbd.a'), '-lgnutls', '-lxml2', '-lpthread'];
  const flags = defines.map((define) => `-D${define}`);
  await build(tree, 'gcc', [
    '-O1',
    '-w',
    '-DHAVE_CONFIG_H',
    ...include,
    ...flags,
    ...sources,
    '-o',
    output,
    ...libraries,
  ]);
  return output;
}

/** The directory of a current qemu-img and qemu-io. */
export async function currentQemu(): Promise<string> {
  return join(await cachedPackage('qemu-utils-backports', 'bookworm-backports', 'qemu-utils'), 'usr/bin');
}

/** The directory `tests/run` of nbd's source: nbd-tester-client, its traces and its certificates. */
export async function nbdTesterDirectory(): Promise<string> {
  const source = { name: 'nbd', suite: 'trixie', otherwise: 'the tests need its source' };
  const tree = await cachedSource('nbd-trixie-inetd', source, async (fetched) => {
    // Its inetd mode wants the system's log. The variable stands for a program that makes manual pages, which configure asks for even when told not to make any.
    await build(fetched, './configure', ['--without-libnl', '--enable-syslog', '--disable-manpages', 'DB2M=true']);
    await build(fetched, 'make', ['-C', 'tests/run', 'nbd-tester-client']);
  });
  return join(tree, 'tests/run');
}

async function build(cwd: string, program: string, args: readonly string[]): Promise<void> {
  if (!existsSync(cwd)) throw new Error(`${cwd} is gone; remove the tests' cache and try again`);
  await execute(program, args, { cwd, maxBuffer: 64 * 1024 * 1024 });
}

if (import.meta.main) {
  await libnbdTree();
  await currentQemu();
  await nbdTesterDirectory();
}
