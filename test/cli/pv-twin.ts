/**
 * The same command on twins: empty image files under the real LVM2 (as loop devices) and under ours. What both print, how they
 * end, what they report and how they lay PVs out is compared. Needs root and lvm2 (test/setup).
 */
import assert from 'node:assert/strict';
import { mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../src/cli/run.ts';
import { findLabel, type Label, LABEL_SCAN_BYTES } from '../../src/ondisk/label.ts';
import {
  committedText,
  decodeMdaHeader,
  encodeMdaHeader,
  MDA_HEADER_BYTES,
  readRanges,
  textLocn,
} from '../../src/ondisk/mda.ts';
import { mustRun } from '../helpers/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { type Lvm2, reportRows, withLvm2 } from '../lvm/lvm2.ts';

export interface Answer {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface DeviceTwins {
  /** Paths of our images; what LVM2 prints of its devices is translated to them. */
  readonly files: readonly string[];
  readonly folder: string;
  ours(line: string): Promise<Answer>;
  /** Runs command lines on both; P0, P1 … stand for the devices. Answers must be the same. */
  same(lines: readonly string[]): Promise<void>;
  /** As `same`, for commands whose words differ: only exit codes must be the same. */
  sameCode(lines: readonly string[]): Promise<void>;
  /** Both see the same PVs and VGs, laid out alike, and LVM2 accepts ours without a word. */
  sameWorld(): Promise<void>;
  /** The lines of the VG's text on a device that tell what its parts may be used for are the same. */
  sameFlags(index: number): Promise<void>;
  /** All committed texts are the same, but for ids, times, and what LVM2 2.03.16 writes as dev_size. */
  sameTexts(): Promise<void>;
  /** Changes the committed text of a device, which must be of one piece, on both. */
  editText(index: number, edit: (text: string) => string): Promise<void>;
  /** Gives a device another size, on both. */
  resize(index: number, mib: number): Promise<void>;
}

type Row = Readonly<Record<string, string>>;

const PVS =
  'pv_name,vg_name,pv_attr,pv_size,pv_free,dev_size,pe_start,pv_pe_count,pv_pe_alloc_count,pv_tags,pv_mda_count,pv_mda_used_count,pv_ba_start,pv_ba_size,pv_in_use';
const VGS =
  'vg_name,vg_attr,vg_size,vg_free,vg_extent_size,vg_extent_count,max_lv,max_pv,pv_count,vg_missing_pv_count,vg_tags,vg_seqno,vg_mda_count,vg_mda_used_count,vg_mda_copies,vg_systemid,vg_profile';

/** LVM2's remarks on its own surroundings. */
const NOISE = /^ {2}(?:WARNING: Activation disabled\.|WARNING: This metadata update is NOT backed up\.).*\n/gm;

/** Makes empty images of these sizes (MiB), twice. */
export async function withDeviceTwins(
  sizes: readonly number[],
  use: (twins: DeviceTwins) => Promise<void>,
): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    await mkdir(join(folder, 'theirs'));
    await mkdir(join(folder, 'ours'));
    const theirs = sizes.map((_, i) => join(folder, 'theirs', `pv${i}`));
    const files = sizes.map((_, i) => join(folder, 'ours', `pv${i}`));
    for (const [i, mib] of sizes.entries()) {
      await truncate(theirs[i] ?? '', mib);
      await truncate(files[i] ?? '', mib);
    }
    await withLvm2(theirs, (lvm) => withLvm2(files, (judge) => use(new Twins(folder, files, theirs, lvm, judge))));
  });
}

async function truncate(path: string, mib: number): Promise<void> {
  const file = await open(path, 'a');
  await file.truncate(mib * 1024 * 1024);
  await file.close();
}

/** Which PV's metadata area goes out of use is LVM2's random choice; how many are in use is the VG's field. */
function withoutChance(row: Row): Row {
  return { ...row, pv_mda_used_count: '' };
}

class Twins implements DeviceTwins {
  readonly folder: string;
  readonly files: readonly string[];
  readonly #images: readonly string[];
  readonly #theirs: Lvm2;
  readonly #judge: Lvm2;

  constructor(folder: string, files: readonly string[], images: readonly string[], theirs: Lvm2, judge: Lvm2) {
    this.folder = folder;
    this.files = files;
    this.#images = images;
    this.#theirs = theirs;
    this.#judge = judge;
  }

  ours(line: string): Promise<Answer> {
    return this.#run(words(line, this.files));
  }

  async #run(argv: readonly string[]): Promise<Answer> {
    let stdout = '';
    let stderr = '';
    const output = {
      print: (line: string): void => void (stdout += `  ${line}\n`),
      printPlain: (text: string): void => void (stdout += text),
      error: (line: string): void => void (stderr += `  ${line}\n`),
      plainError: (line: string): void => void (stderr += `${line}\n`),
    };
    const env = {
      ORION_LVM_DEVICES: this.files.join(','),
      HOME: this.folder,
      XDG_RUNTIME_DIR: this.folder,
      XDG_STATE_HOME: this.folder,
      LVM_SYSTEM_DIR: join(this.folder, 'no-lvm'),
    };
    const terminal = { readLine: () => null, write: (text: string): void => void (stderr += text) };
    const around = { env, cwd: this.folder, uid: 1000, now: Math.floor(Date.now() / 1000), terminal };
    const code = await run(argv, output, around);
    return { code, stdout, stderr };
  }

  async #both(line: string): Promise<readonly [ours: Answer, theirs: Answer]> {
    const [command = '', ...args] = words(line, this.#theirs.devices);
    const { status, stdout, stderr } = await this.#theirs.run(command, ...args);
    const theirs = {
      code: status ?? -1,
      stdout: this.#translate(stdout),
      stderr: this.#translate(stderr).replaceAll(NOISE, ''),
    };
    return [await this.ours(line), theirs];
  }

  async same(lines: readonly string[]): Promise<void> {
    for (const line of lines) {
      const [ours, theirs] = await this.#both(line);
      assert.deepEqual(ours, theirs, line);
    }
  }

  async sameCode(lines: readonly string[]): Promise<void> {
    for (const line of lines) {
      const [ours, theirs] = await this.#both(line);
      assert.equal(ours.code, theirs.code, `${line}\n${ours.stderr}\n${theirs.stderr}`);
    }
  }

  async sameWorld(): Promise<void> {
    for (const [command, fields] of [
      ['pvs', PVS],
      ['vgs', VGS],
    ] as const) {
      const mine = await this.#rowsOfOurs(command, fields);
      const theirs = await this.#rowsOf(this.#theirs, command, fields);
      assert.deepEqual(mine.map(withoutChance), theirs.map(withoutChance), command);
      assert.deepEqual(mine, await this.#rowsOf(this.#judge, command, fields), `${command} of ours by LVM2`);
    }
    for (const [i, file] of this.files.entries()) {
      assert.deepEqual(await labelOf(file), await labelOf(this.#images[i] ?? ''), file);
    }
    const check = await this.#judge.run('vgck');
    assert.equal(`${check.status}${check.stdout}${check.stderr.replaceAll(NOISE, '')}`, '0', 'vgck');
  }

  async sameFlags(index: number): Promise<void> {
    const [ours, theirs] = [await flagsOf(this.files[index] ?? ''), await flagsOf(this.#images[index] ?? '')];
    assert.ok(theirs.length > 0);
    assert.deepEqual(ours, theirs);
  }

  async sameTexts(): Promise<void> {
    assert.deepEqual(await textsOf(this.files), await textsOf(this.#images));
  }

  async editText(index: number, edit: (text: string) => string): Promise<void> {
    for (const path of [this.files[index], this.#images[index]]) await rewriteText(path ?? '', edit);
    for (const lvm of [this.#theirs, this.#judge]) await mustRun('blockdev', ['--flushbufs', lvm.devices[index] ?? '']);
  }

  async resize(index: number, mib: number): Promise<void> {
    for (const path of [this.files[index], this.#images[index]]) await truncate(path ?? '', mib);
    for (const lvm of [this.#theirs, this.#judge]) await mustRun('losetup', ['-c', lvm.devices[index] ?? '']);
  }

  #translate(text: string): string {
    return this.#images.reduce((all, image, i) => all.replaceAll(image, this.files[i] ?? ''), text);
  }

  async #rowsOfOurs(command: string, fields: string): Promise<readonly Row[]> {
    const { stdout } = await this.ours(`${command} -o ${fields} --reportformat json --units b --nosuffix`);
    return inOrder(reportRows(stdout));
  }

  async #rowsOf(lvm: Lvm2, command: string, fields: string): Promise<readonly Row[]> {
    const rows = await lvm.report(command, '-o', fields);
    return inOrder(
      rows.map((row) => Object.fromEntries(Object.entries(row).map(([key, value]) => [key, this.#translate(value)]))),
    );
  }
}

/** The words of a line, with P0, P1 … replaced. */
function words(line: string, devices: readonly string[]): readonly string[] {
  return line.split(' ').map((word) => word.replace(/^P(\d)$/, (_, n: string) => devices[Number(n)] ?? ''));
}

/** LVM2 sorts PVs by the names of their loop devices. */
function inOrder(rows: readonly Row[]): readonly Row[] {
  return rows.toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
}

/** status and flags of the committed text. */
async function flagsOf(path: string): Promise<readonly string[]> {
  const lines = await textOf(path);
  return lines.filter((line) => /^(?:status|flags|system_id) = /.test(line));
}

/** Lines of the committed text in each area of a device. */
async function textOf(path: string): Promise<readonly string[]> {
  const label = await labelOf(path);
  const file = await open(path);
  try {
    const lines: string[] = [];
    for (const area of label?.metadataAreas ?? []) {
      const bytes = Buffer.alloc(area.size);
      await file.read(bytes, 0, area.size, area.offset);
      const header = decodeMdaHeader(bytes.subarray(0, MDA_HEADER_BYTES), { device: path, offset: area.offset });
      const locn = committedText(header);
      const ranges = locn === null ? [] : readRanges(header, locn);
      const parts = ranges.map(({ offset, size }) => bytes.subarray(offset - area.offset, offset - area.offset + size));
      lines.push('area', ...Buffer.concat(parts).toString('latin1').split('\n'));
    }
    return lines;
  } finally {
    await file.close();
  }
}

/** Puts another text in the place of the committed one of each area. */
async function rewriteText(path: string, edit: (text: string) => string): Promise<void> {
  const label = await labelOf(path);
  const file = await open(path, 'r+');
  try {
    for (const area of label?.metadataAreas ?? []) {
      const sector = Buffer.alloc(MDA_HEADER_BYTES);
      await file.read(sector, 0, sector.length, area.offset);
      const header = decodeMdaHeader(sector, { device: path, offset: area.offset });
      const locn = committedText(header);
      if (locn === null) continue;
      const [{ offset, size } = { offset: 0, size: 0 }, ...more] = readRanges(header, locn);
      assert.deepEqual(more, []);
      const before = Buffer.alloc(size);
      await file.read(before, 0, size, offset);
      const after = Buffer.from(edit(before.toString('latin1')), 'latin1');
      await file.write(after, 0, after.length, offset);
      const slots: typeof header.slots = [textLocn(locn.offset, after), header.slots[1]];
      await file.write(encodeMdaHeader({ ...header, slots }), 0, MDA_HEADER_BYTES, area.offset);
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

const OWN_LINES = /^(?:creation_|description|device|dev_size|# Generated)/;

/** Texts of all devices, with ids numbered as they come. */
async function textsOf(paths: readonly string[]): Promise<readonly string[]> {
  const lines: string[] = [];
  for (const path of paths) lines.push('device', ...(await textOf(path)));
  const ids = new Map<string, string>();
  const numbered = (id: string): string => {
    const known = ids.get(id) ?? `id${ids.size}`;
    ids.set(id, known);
    return known;
  };
  return lines
    .filter((line) => !OWN_LINES.test(line))
    .map((line) => line.replace(/(?<=^id = ").*(?="$)/, (id) => numbered(id)));
}

/** The layout that the label states, without the uuid; null: no label. */
async function labelOf(path: string): Promise<Label | null> {
  const file = await open(path);
  try {
    const first = Buffer.alloc(LABEL_SCAN_BYTES);
    await file.read(first, 0, first.length, 0);
    const label = findLabel(first, path);
    return label === null ? null : { ...label, uuid: '' };
  } finally {
    await file.close();
  }
}
