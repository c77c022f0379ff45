/**
 * Holds our reporting commands against the real ones: both run on the same loop devices, and every byte of stdout, of stderr
 * and the exit code are compared. LVM2's device-mapper is played by the shim beside the checkout, so that LVM2 sees
 * inactive LVs instead of a kernel that it can't ask. Needs root, lvm2 and gcc (test/setup).
 */
import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { EXIT, type Output } from '../../src/cli/messages.ts';
import { run as runOurs } from '../../src/cli/run.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { SHARED, withTemporaryFolder } from '../helpers/shared.ts';
import { attachLoops, detachLoops } from '../lvm/lvm2.ts';

export interface Shown {
  readonly stdout: string;
  readonly stderr: string;
  readonly status: number | null;
}

/** Keeps what a command prints. */
class Capture implements Output {
  stdout = '';
  stderr = '';
  print(line: string): void {
    this.printPlain(`  ${line}\n`);
  }
  printPlain(text: string): void {
    this.stdout += text;
  }
  error(line: string): void {
    this.plainError(`  ${line}`);
  }
  plainError(line: string): void {
    this.stderr += `${line}\n`;
  }
}

/** Runs one of our commands in this process. */
export async function ours(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>> = {},
): Promise<Shown> {
  const output = new Capture();
  const terminal = { readLine: () => null, write: (text: string): void => void (output.stderr += text) };
  const around = { env, cwd: '/', uid: 0, now: Math.floor(Date.now() / 1000), terminal };
  const status = await runOurs(argv, output, around);
  return { stdout: output.stdout, stderr: output.stderr, status };
}

/** What LVM2 says on stdout of a persistent major number that its device-mapper doesn't have. */
const IGNORED_MAJOR = /^ {2}Ignoring supplied major \d+ number - kernel assigns major numbers dynamically\.\n/gm;

export interface Judge {
  readonly devices: readonly string[];
  /** Runs `argv` (a command and its arguments) in both and compares. */
  same(argv: readonly string[], env?: Readonly<Record<string, string>>): Promise<void>;
  /** As `same`, but only of stdout and the exit code: where LVM2 says more of itself, or words an error in its own way. */
  sameResult(argv: readonly string[]): Promise<void>;
  /** As `sameResult`, without --devices, for commands whose arguments are the devices. */
  sameAlone(argv: readonly string[]): Promise<void>;
  /** Runs the real command alone. */
  real(argv: readonly string[]): Promise<Shown>;
}

/** A folder with the shim, its state and LVM2's configuration. */
async function prepare(folder: string): Promise<NodeJS.ProcessEnv> {
  const dm = join(folder, 'dm');
  for (const name of ['lock', 'dm', 'dm/data', 'dm/sys']) await mkdir(join(folder, name));
  const devices = await readFile('/proc/devices', 'latin1');
  await writeFile(join(dm, 'proc_devices'), devices.replace('Block devices:\n', 'Block devices:\n252 device-mapper\n'));
  const misc = await readFile('/proc/misc', 'latin1');
  await writeFile(join(dm, 'proc_misc'), /device-mapper/.test(misc) ? misc : `${misc}236 device-mapper\n`);
  const shim = join(folder, 'fakedm.so');
  const source = join(SHARED, 'lvm2-suite/lib/fakedm.c');
  await mustRun('gcc', ['-O1', '-shared', '-fPIC', '-w', '-o', shim, source, '-ldl']);
  await writeFile(
    join(folder, 'lvm.conf'),
    `global { use_lvmpolld = 0 use_lvmlockd = 0 locking_dir = "${join(folder, 'lock')}" }\n` +
      'devices { use_devicesfile = 0 hints = "none" }\nactivation { monitoring = 0 udev_sync = 0 }\n' +
      'backup { backup = 0 archive = 0 }\n',
  );
  return { LVM_SYSTEM_DIR: folder, LVM_SUPPRESS_FD_WARNINGS: '1', FAKEDM_DIR: dm, LD_PRELOAD: shim };
}

/** Attaches `files` to loop devices and calls `use` with a judge over those at `shown` (default: all of them). */
export async function withJudge(
  files: readonly string[],
  use: (judge: Judge) => Promise<void>,
  shown: readonly number[] = [...files.keys()],
): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const env = await prepare(folder);
    const loops = await attachLoops(files);
    try {
      await use(
        judgeOf(
          shown.map((index) => loops[index] ?? ''),
          env,
        ),
      );
    } finally {
      await detachLoops(loops);
    }
  });
}

function judgeOf(devices: readonly string[], environment: NodeJS.ProcessEnv): Judge {
  const list = ['--devices', devices.join(',')];
  const both = async (argv: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<[Shown, Shown]> => {
    const real = await runProgram('lvm', argv, { env: { ...environment, ...env } });
    return [await ours(argv, env), { ...real, stdout: real.stdout.replace(IGNORED_MAJOR, '') }];
  };
  const result = async (argv: readonly string[], title: string): Promise<void> => {
    const [own, real] = await both(argv);
    assert.equal(own.stdout, real.stdout, `stdout of: ${title}\n${own.stderr}`);
    assert.equal(own.status, real.status ?? EXIT.failed, `exit code of: ${title}\n${own.stderr}`);
  };
  return {
    devices,
    async same([command = '', ...args], env = {}) {
      const title = `${command} ${args.join(' ')}`;
      const [own, real] = await both([command, ...list, ...args], env);
      assert.equal(own.stdout, real.stdout, `stdout of: ${title}\n${own.stderr}`);
      assert.equal(own.stderr, real.stderr, `stderr of: ${title}`);
      assert.equal(own.status, real.status ?? EXIT.failed, `exit code of: ${title}`);
    },
    sameResult: ([command = '', ...args]) => result([command, ...list, ...args], `${command} ${args.join(' ')}`),
    sameAlone: (argv) => result(argv, argv.join(' ')),
    real: ([command = '', ...args]) => runProgram('lvm', [command, ...list, ...args], { env: environment }),
  };
}
