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
import { startDaemon } from '../helpers/daemon.ts';
import { libnbdProgram, libnbdTree } from '../helpers/nbd-programs.ts';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';
import { makeGroup } from './small-group.ts';

const DAEMON = join(CHECKOUT, 'bin/orion-lvmd');

/** A C string, or several as the elements of an array. */
function quoted(...words: readonly string[]): string {
  return words.map((word) => JSON.stringify(word)).join(', ');
}

function killGroup(leader: number): void {
  try {
    process.kill(-leader, 'SIGKILL');
  } catch (error) {
    // Nobody is left of it.
    assert.equal((error as NodeJS.ErrnoException).code, 'ESRCH');
  }
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
  /** Runs a program in a process group of its own: one that fails, or is to fail, leaves its server behind. */
  const passes = async (program: string, ...args: readonly string[]): Promise<void> => {
    const child = spawn(program, args, { cwd: folder, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
    const closed = once(child, 'close');
    const [status] = (await once(child, 'exit')) as [number | null];
    killGroup(child.pid!);
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
    const report = ['--devices', image, '--noheadings', '-o', 'vg_uuid,lv_uuid'];
    const [vgId, lvId] = (await mustRun(join(CHECKOUT, 'bin/lvs'), report)).trim().split(/\s+/);
    const defines = [
      'SOCKET_ACTIVATION=1',
      `EXPORTS=${quoted('vg/lv')}`,
      `DESCRIPTIONS=${quoted(`1 MiB linear logical volume of volume group vg, id ${vgId}/${lvId}`)}`,
    ];
    await passes(await compiled('interop/list-exports', server, defines));
  });

  test('opt-extended-headers', async () => {
    const program = await libnbdProgram('interop/opt-extended-headers', join(folder, 'opt-extended-headers'));
    await passes(program, DAEMON, ...server);
  });

  /**
   * Their bitmaps are what changed since a snapshot here. Volumes lie on a file without anything in it, so what nobody wrote is a hole.
   * @param before what is done to the volume before the snapshot, @param then what after it: qemu-io's commands.
   */
  const withSnapshot = async (
    size: string,
    before: readonly string[],
    then: readonly string[],
  ): Promise<readonly string[]> => {
    const directory = await mkdtemp(join(folder, 'changed-'));
    const sparse = await makeGroup(directory, [{ name: 'lv', size, options: ['-Wn', '-Zn'] }], 16);
    const io = async (commands: readonly string[]): Promise<void> => {
      const daemon = await startDaemon([sparse]);
      const raw = `driver=nbd,path=${daemon.socket},export=vg/lv,discard=unmap`;
      await mustRun('qemu-io', [...commands.flatMap((command) => ['-c', command]), '--image-opts', raw]);
      assert.equal(await daemon.stop(), 0, daemon.log());
    };
    await io(before);
    await mustRun(join(CHECKOUT, 'bin/lvcreate'), [
      '--devices',
      sparse,
      '-s',
      '-c',
      '64k',
      '-L',
      '4m',
      '-n',
      'snap',
      'vg/lv',
    ]);
    await io(then);
    const config = join(directory, 'lvm.toml');
    await writeFile(
      config,
      `devices = [${quoted(sparse)}]\ndefault_export = "vg/lv"\ncontrol = ${quoted(join(directory, 'control.sock'))}\n`,
    );
    return ['--config', config, '--workers', '0'];
  };

  test('dirty-bitmap: what changed since a snapshot', async () => {
    const params = await withSnapshot('1m', ['write 0 64k'], ['write 64k 64k', 'write -z -u 512k 64k']);
    const program = await libnbdProgram('interop/dirty-bitmap', join(folder, 'dirty-bitmap'));
    await passes(program, 'qemu:dirty-bitmap:snap', DAEMON, ...params);
  });

  test('block-status-64: one request for five gibibytes', async () => {
    const params = await withSnapshot('5120m', ['write 0 64k'], [`write -z -u ${5 * 2 ** 30 - 65_536} 64k`]);
    const program = await libnbdProgram('interop/block-status-64', join(folder, 'block-status-64'));
    await passes(program, 'qemu:dirty-bitmap:snap', DAEMON, ...params);
  });

  describe('interop', () => {
    /** interop.c, which looks into the file that it gave its server: ours has the volume's bytes at an offset, which is told to it here. */
    let source = '';
    let serial = 0;

    before(async () => {
      const look = 'fd = open (TMPFILE, O_RDONLY);';
      const text = await readFile(join(await libnbdTree(), 'interop/interop.c'), 'utf8');
      assert.ok(text.includes(look));
      const report = ['--devices', image, '--noheadings', '--nosuffix', '--units', 'b', '-o', 'pe_start'];
      const offset = Number(await mustRun(join(CHECKOUT, 'bin/pvs'), report));
      const there = `fd = open (${quoted(image)}, O_RDONLY); lseek (fd, ${offset}, SEEK_SET);`;
      source = join(folder, 'interop');
      await writeFile(`${source}.c`, text.replaceAll(look, there).replaceAll('"../tests/requires.h"', '"requires.h"'));
      const init = ['init', '--dir', join(folder, 'tls'), '--host', 'localhost', '--client', 'alice'];
      await mustRun(join(CHECKOUT, 'bin/orion-lvm'), ['tls', ...init]);
      await mustRun(join(CHECKOUT, 'bin/orion-lvm'), ['tls', ...init, '--psk']);
    });

    const interop = async (params: readonly string[], defines: readonly string[]): Promise<void> => {
      const all = [
        `SERVER=${quoted(DAEMON)}`,
        `SERVER_PARAMS=${quoted(...server, ...params)}`,
        `EXPORT_NAME=${quoted('vg/lv')}`,
      ];
      await passes(await libnbdProgram(source, join(folder, `interop-${++serial}`), [...all, ...defines]));
    };
    const activated = 'SOCKET_ACTIVATION=1';
    const required = 'TLS_MODE=LIBNBD_TLS_REQUIRE';
    const allowed = 'TLS_MODE=LIBNBD_TLS_ALLOW';

    test('in plain text', async () => {
      await interop([], [activated]);
      await interop(['--stdio'], []);
    });

    test('certificates', async () => {
      const certificates = join(folder, 'tls');
      const tls = ['--tls', 'required', '--tls-certificates', certificates, '--tls-verify-clients'];
      const alice = `CERTS=${quoted(join(certificates, 'alice'))}`;
      await interop(tls, [activated, alice, required]);
      await interop(['--stdio', ...tls], [alice, required]);
      await interop(tls, [activated, alice, allowed]);
      await interop(['--tls', 'off'], [activated, alice, allowed, 'TLS_FALLBACK=1']);
      await interop(tls, [activated, 'CERTS=NULL', required, 'EXPECT_FAIL=1']);
      await interop(tls, [
        activated,
        alice,
        required,
        `TLS_HOSTNAME=${quoted('this.is.bad.example.com')}`,
        'EXPECT_FAIL=1',
      ]);
    });

    test('pre-shared keys', async () => {
      const keys = join(folder, 'tls/keys.psk');
      const psk = `PSK=${quoted(keys)}`;
      await interop(['--tls', 'required', '--tls-psk', keys], [activated, psk, required]);
      await interop(['--stdio', '--tls', 'required', '--tls-psk', keys], [psk, required]);
      await interop(['--tls', 'required', '--tls-psk', keys], [activated, psk, allowed]);
      await interop(['--tls', 'off'], [activated, psk, allowed, 'TLS_FALLBACK=1']);
    });
  });
});
