/**
 * The real LVM2 as a judge: runs it on loop devices over image files, with a configuration of its own, and gives its reports
 * as data. Needs root and lvm2 (test/setup).
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { mustRun, runProgram } from '../helpers/run.ts';
import type { Outcome } from '../helpers/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';

export interface Lvm2 {
  /** Loop devices, in the order of the files. */
  readonly devices: readonly string[];
  /** Runs an LVM2 command on these devices; loop devices are named as the files in what it prints. */
  run(command: string, ...args: readonly string[]): Promise<Outcome>;
  /** Runs a report command; rows of its first report. */
  report(command: string, ...args: readonly string[]): Promise<readonly Record<string, string>[]>;
}

/** Attaches files to loop devices, calls `use`, and detaches them again. */
export async function withLvm2<T>(files: readonly string[], use: (lvm: Lvm2) => Promise<T>): Promise<T> {
  return withTemporaryFolder(async (folder) => {
    await mkdir(join(folder, 'lock'));
    await writeFile(
      join(folder, 'lvm.conf'),
      `global { use_lvmpolld = 0 use_lvmlockd = 0 locking_dir = "${join(folder, 'lock')}" }\n` +
        'devices { use_devicesfile = 0 }\nactivation { monitoring = 0 }\nbackup { backup = 0 archive = 0 }\n',
    );
    const devices = await attachLoops(files);
    try {
      return await use(session(folder, files, devices));
    } finally {
      await detachLoops(devices);
    }
  });
}

/** Loop devices whose names are as long as each other and sorted as the files are: LVM2 sorts by name, and columns are as wide as names. */
export async function attachLoops(files: readonly string[]): Promise<readonly string[]> {
  const devices: string[] = [];
  const others: string[] = [];
  try {
    for (let file = files[0]; file !== undefined; file = files[devices.length]) {
      const device = (await mustRun('losetup', ['-f', '--show', file])).trim();
      const last = devices.at(-1) ?? device;
      if (device.length > last.length) others.push(...devices.splice(0), device);
      else if (device.length < last.length || device < last) others.push(device);
      else devices.push(device);
    }
    return devices;
  } catch (error) {
    others.push(...devices);
    throw error;
  } finally {
    await detachLoops(others);
  }
}

export async function detachLoops(devices: readonly string[]): Promise<void> {
  for (const device of devices) await runProgram('losetup', ['-d', device]);
}

function session(folder: string, files: readonly string[], devices: readonly string[]): Lvm2 {
  const run: Lvm2['run'] = async (command, ...args) => {
    const options = ['--driverloaded', 'n', '--devices', devices.join(',')];
    const outcome = await runProgram(command, [...args, ...options], {
      env: { LVM_SYSTEM_DIR: folder, LVM_SUPPRESS_FD_WARNINGS: '1' },
    });
    return { ...outcome, stdout: named(outcome.stdout), stderr: named(outcome.stderr) };
  };
  const named = (text: string): string =>
    text.replaceAll(/\/dev\/loop\d+/g, (device) => files[devices.indexOf(device)] ?? device);
  return {
    devices,
    run,
    async report(command, ...args) {
      const { stdout } = await run(command, ...args, '--reportformat', 'json', '--units', 'b', '--nosuffix');
      return reportRows(stdout);
    },
  };
}

/** Rows of the first report in JSON output. */
export function reportRows(stdout: string): readonly Record<string, string>[] {
  // LVM2 prints some of its messages between the lines of a report.
  const json = stdout.split('\n').filter((line) => !/^ {2}(?:Ignoring|Retrying) /.test(line));
  const parsed = JSON.parse(json.join('\n')) as { report: Record<string, Record<string, string>[]>[] };
  return Object.values(parsed.report[0] ?? {})[0] ?? [];
}
