/**
 * The same command on twins: one volume group under the real LVM2 on loop devices, a copy of it under ours on image files.
 * What both print, how they end and what they report is compared. Needs root and lvm2 (test/setup).
 */
import assert from 'node:assert/strict';
import { copyFile, mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../src/cli/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { reportRows, withLvm2, type Lvm2 } from '../lvm/lvm2.ts';

export interface Answer {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Twins {
  /** Paths of our images; what LVM2 prints of its devices is translated to them. */
  readonly files: readonly string[];
  /** LVM2 on its own images, and on ours. */
  readonly theirs: Lvm2;
  readonly judge: Lvm2;
  ours(command: string, ...args: readonly string[]): Promise<Answer>;
  /** Runs a command on both. Paths in `args` are those of our files. */
  both(command: string, ...args: readonly string[]): Promise<{ readonly ours: Answer; readonly theirs: Answer }>;
  /** `both`, and the answers must be the same; gives them. */
  same(command: string, ...args: readonly string[]): Promise<Answer>;
  /** What lvs says of every segment, on both twins; must be the same. */
  sameVolumes(): Promise<void>;
  /** LVM2 must find nothing wrong with ours, and see what we see. */
  accepted(): Promise<void>;
}

type Rows = readonly Readonly<Record<string, string>>[];

const FIELDS =
  'lv_name,lv_attr,lv_size,lv_tags,lv_allocation_policy,lv_read_ahead,lv_minor,lv_permissions,lv_skip_activation,seg_start_pe,seg_size_pe,stripes,stripe_size,segtype,devices,seg_pe_ranges';

/** LVM2's remarks on its own surroundings. */
const NOISE =
  /^ {2}(?:WARNING: Activation disabled\.|WARNING: This metadata update is NOT backed up\.|WARNING: Skipping zeroing and wipping).*\n/gm;

/** Makes a VG called `vg` on images of these sizes (MiB), twice. */
export async function withTwins(
  sizes: readonly number[],
  vgcreate: readonly string[],
  use: (twins: Twins) => Promise<void>,
  prepare: (lvm: Lvm2) => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    await mkdir(join(folder, 'theirs'));
    await mkdir(join(folder, 'ours'));
    const theirs = sizes.map((_, i) => join(folder, 'theirs', `pv${i}`));
    const files = sizes.map((_, i) => join(folder, 'ours', `pv${i}`));
    for (const [i, path] of theirs.entries()) {
      const file = await open(path, 'w');
      await file.truncate((sizes[i] ?? 0) * 1024 * 1024);
      await file.close();
    }
    await withLvm2(theirs, async (lvm) => {
      const made = await lvm.run('vgcreate', ...vgcreate, 'vg', ...lvm.devices);
      assert.equal(made.status, 0, made.stderr);
      await prepare(lvm);
      for (const [i, path] of theirs.entries()) await copyFile(path, files[i] ?? '');
      await withLvm2(files, (judge) => use(twins(folder, files, theirs, lvm, judge)));
    });
  });
}

/** LVM2 sorts PVs by the names of their loop devices. */
function inOrder(rows: Rows): Rows {
  return rows.toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
}

function twins(folder: string, files: readonly string[], images: readonly string[], theirs: Lvm2, judge: Lvm2): Twins {
  const env = {
    ORION_LVM_DEVICES: files.join(','),
    HOME: folder,
    XDG_RUNTIME_DIR: folder,
    XDG_STATE_HOME: folder,
    LVM_SYSTEM_DIR: join(folder, 'no-lvm'),
  };
  const ours = async (command: string, ...args: readonly string[]): Promise<Answer> => {
    let stdout = '';
    let stderr = '';
    const output = {
      print: (line: string): void => void (stdout += `  ${line}\n`),
      printPlain: (text: string): void => void (stdout += text),
      error: (line: string): void => void (stderr += `  ${line}\n`),
      plainError: (line: string): void => void (stderr += `${line}\n`),
    };
    const terminal = { readLine: () => null, write: (text: string): void => void (stderr += text) };
    const around = { env, cwd: folder, uid: 1000, now: Math.floor(Date.now() / 1000), terminal };
    const code = await run([command, ...args], output, around);
    return { code, stdout, stderr };
  };
  const translate = (text: string): string =>
    images.reduce((all, image, i) => all.replaceAll(image, files[i] ?? ''), text);
  const toDevice = (arg: string): string =>
    files.reduce((text, file, i) => text.replaceAll(file, theirs.devices[i] ?? ''), arg);
  const both: Twins['both'] = async (command, ...args) => {
    const answer = await theirs.run(command, ...args.map(toDevice));
    const stderr = translate(answer.stderr).replaceAll(NOISE, '');
    return {
      ours: await ours(command, ...args),
      theirs: { code: answer.status ?? -1, stdout: translate(answer.stdout), stderr },
    };
  };
  const lvs = ['lvs', '-a', '--segments', '-o', FIELDS, '-O', 'lv_name,seg_start_pe'];
  const rowsOfOurs = async (report: readonly string[]): Promise<Rows> => {
    const [command = '', ...args] = report;
    const { stdout } = await ours(command, ...args, '--reportformat', 'json', '--units', 'b', '--nosuffix');
    return reportRows(stdout);
  };
  const rowsOf = async (lvm: Lvm2, report: readonly string[]): Promise<Rows> => {
    const [command = '', ...args] = report;
    const rows = await lvm.report(command, ...args);
    return rows.map((row) => Object.fromEntries(Object.entries(row).map(([key, value]) => [key, plain(key, value)])));
  };
  // Without device-mapper LVM2 does not know whether an LV is active.
  const plain = (key: string, value: string): string =>
    translate(key === 'lv_attr' ? value.replace('XX', '--') : value);
  return {
    files,
    theirs,
    judge,
    ours,
    both,
    async same(command, ...args) {
      const answers = await both(command, ...args);
      assert.deepEqual(answers.ours, answers.theirs, [command, ...args].join(' '));
      return answers.ours;
    },
    async sameVolumes() {
      assert.deepEqual(await rowsOfOurs(lvs), await rowsOf(theirs, lvs));
    },
    async accepted() {
      const check = await judge.run('vgck', 'vg');
      assert.equal(`${check.status}${check.stdout}${check.stderr.replaceAll(NOISE, '')}`, '0', 'vgck');
      for (const report of [lvs, ['pvs', '--segments', '-o', 'pv_name,pvseg_start,pvseg_size,lv_name'], ['vgs']]) {
        const [mine, seen] = [await rowsOfOurs(report), await rowsOf(judge, report)].map(inOrder);
        assert.deepEqual(mine, seen, report.join(' '));
      }
    },
  };
}
