/**
 * Growing and shrinking the file system on an LV with its own tools, for `-r`: e2fsck and resize2fs for ext2, ext3 and ext4,
 * xfs_growfs for XFS.
 *
 * The tools get the LV as a loop device over its one range of one PV (so root is needed), never the PV itself: resize2fs, for
 * one, cuts an image file off behind the file system. An LV in several pieces has no such range as long as nothing serves it,
 * and is refused.
 *
 * Invariants
 *  - Whatever speaks against it is found before anything is changed: type, tools, place, direction, privileges.
 *  - A file system is checked before it is resized, shrunk before the LV is, and grown after it.
 *  - The tools never get a range that is not the LV's.
 */
import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { mkdtemp, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import type { BlockDevice } from '../block/device.ts';
import { readBytes } from '../block/sync-io.ts';
import type { LogicalVolumeText } from '../ondisk/metadata.ts';
import { CommandError } from './edit/errors.ts';
import type { VolumeGroup } from './model.ts';
import { findSignatures, SIGNATURE_HEAD_BYTES, SIGNATURE_TAIL_BYTES } from './signatures.ts';

const SECTOR_BYTES = 512;
const EXT_TYPES: ReadonlySet<string> = new Set(['ext2', 'ext3', 'ext4']);
const TOOLS = { ext: ['losetup', 'e2fsck', 'resize2fs'], xfs: ['losetup', 'mount', 'umount', 'xfs_growfs'] } as const;
/** e2fsck: errors corrected. */
const FSCK_CORRECTED = 1;

export interface FilesystemResize {
  readonly group: VolumeGroup;
  readonly lvName: string;
  /** As it is before and after. */
  readonly before: LogicalVolumeText;
  readonly after: LogicalVolumeText;
  /** Bytes. */
  readonly sizeBytes: number;
  readonly change: 'extend' | 'reduce';
  /** -n: don't check first. */
  readonly skipCheck: boolean;
  readonly yes: boolean;
}

/** One range of one device. */
interface Place {
  readonly path: string;
  readonly offset: number;
  readonly length: number;
}

/** The LV before and after; both start at the same byte. */
interface Places {
  readonly before: Place;
  readonly after: Place;
}

/** Opens the LV as it is. */
export type OpenLv = () => Promise<{ readonly device: BlockDevice; close(): Promise<void> }>;

/** What to do around the commit; made by `planFilesystem`, which has found nothing against it. */
export interface FilesystemWork {
  readonly type: string;
  before(): Promise<void>;
  after(): Promise<void>;
}

/** Looks at the file system and at what its resizing needs. Throws CommandError (5) if it can't be done. */
export async function planFilesystem(resize: FilesystemResize, open: OpenLv): Promise<FilesystemWork> {
  const name = `${resize.group.vg.name}/${resize.lvName}`;
  const opened = await open();
  let type: string | null;
  try {
    type = await typeOn(opened.device);
  } finally {
    await opened.close();
  }
  if (type === null) throw new CommandError(`No filesystem found on ${name} to resize.`);
  if (!EXT_TYPES.has(type) && type !== 'xfs') {
    throw new CommandError(`Filesystem "${type}" on ${name} is not supported by --resizefs.`);
  }
  const places = {
    before: placeOf(resize.group, resize.before, name),
    after: placeOf(resize.group, resize.after, name),
  };
  if (places.before.path !== places.after.path || places.before.offset !== places.after.offset) throw scattered(name);
  if (process.getuid?.() !== 0) {
    throw new CommandError(
      `Cannot resize the filesystem on ${name}: a loop device is needed, which only root can make.`,
    );
  }
  return type === 'xfs' ? xfsWork(places, resize, name) : extWork(type, places, resize, name);
}

/** What the LV holds, if it is only one thing. */
async function typeOn(device: BlockDevice): Promise<string | null> {
  const { sizeBytes } = device.limits;
  const tailBytes = Math.min(sizeBytes, SIGNATURE_TAIL_BYTES);
  const found = findSignatures({
    sizeBytes,
    head: await readBytes(device, 0, Math.min(sizeBytes, SIGNATURE_HEAD_BYTES)),
    tail: await readBytes(device, sizeBytes - tailBytes, tailBytes),
  });
  return found.length === 1 ? (found[0]?.type ?? null) : null;
}

function scattered(name: string): CommandError {
  return new CommandError([
    `Cannot resize the filesystem on ${name}: the logical volume is not one range of one device.`,
    'Resize it while orion-lvmd serves the volume, or without --resizefs.',
  ]);
}

/** Where an LV of one linear segment lies. */
function placeOf(group: VolumeGroup, lv: LogicalVolumeText, name: string): Place {
  const [segment, ...more] = lv.segments;
  if (segment?.type !== 'striped' || segment.areas.length !== 1 || more.length > 0) throw scattered(name);
  const [area] = segment.areas;
  const pv = group.pvs.find((candidate) => candidate.text?.label === area?.name);
  if (area === undefined || pv?.text === undefined || pv.found === null) throw scattered(name);
  const extentBytes = group.vg.extentSizeSectors * SECTOR_BYTES;
  const offset = pv.text.peStartSectors * SECTOR_BYTES + area.extent * extentBytes;
  return { path: pv.found.device.path, offset, length: segment.extentCount * extentBytes };
}

function extWork(type: string, places: Places, resize: FilesystemResize, name: string): FilesystemWork {
  requireTools(TOOLS.ext, type, name);
  const resizeOn = async (loop: string): Promise<void> => {
    await mustRun('resize2fs', [loop, `${Math.floor(resize.sizeBytes / 1024)}K`], name);
  };
  return {
    type,
    async before() {
      if (resize.skipCheck && resize.change === 'extend') return;
      await onLoop(places.before, name, async (loop) => {
        if (!resize.skipCheck) await check(loop, resize.yes);
        if (resize.change === 'reduce') await resizeOn(loop);
      });
    },
    async after() {
      if (resize.change === 'extend') await onLoop(places.after, name, resizeOn);
    },
  };
}

async function check(loop: string, yes: boolean): Promise<void> {
  const code = await runTool('e2fsck', ['-f', yes ? '-y' : '-p', loop]);
  if (code > FSCK_CORRECTED) throw new CommandError([`e2fsck failed (${code}).`, 'Filesystem check failed.']);
}

function xfsWork(places: Places, resize: FilesystemResize, name: string): FilesystemWork {
  if (resize.change === 'reduce') {
    throw new CommandError([`Filesystem "xfs" on ${name} can't be shrunk.`, 'Filesystem resize failed.']);
  }
  requireTools(TOOLS.xfs, 'xfs', name);
  return {
    type: 'xfs',
    before: () => Promise.resolve(),
    after: () => onLoop(places.after, name, (loop) => growXfs(loop, name)),
  };
}

/** XFS grows only while it is mounted. */
async function growXfs(loop: string, name: string): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'orion-lvm-xfs-'));
  try {
    await mustRun('mount', ['-t', 'xfs', loop, folder], name);
    try {
      await mustRun('xfs_growfs', [folder], name);
    } finally {
      await mustRun('umount', [folder], name);
    }
  } finally {
    await rmdir(folder);
  }
}

/** Calls `use` with a loop device that is the LV and nothing else. */
async function onLoop(place: Place, name: string, use: (loop: string) => Promise<void>): Promise<void> {
  const range = ['-o', String(place.offset), '--sizelimit', String(place.length)];
  const loop = (await readTool('losetup', ['-f', '--show', ...range, place.path])).trim();
  try {
    await use(loop);
  } finally {
    await mustRun('losetup', ['-d', loop], name);
  }
}

async function mustRun(tool: string, args: readonly string[], name: string): Promise<void> {
  const code = await runTool(tool, args);
  if (code === 0) return;
  throw new CommandError([`${tool} failed (${code}) for ${name}.`, 'Filesystem resize failed.']);
}

function requireTools(tools: readonly string[], type: string, name: string): void {
  const missing = tools.filter((tool) => toolPath(tool) === null);
  if (missing.length === 0) return;
  throw new CommandError(`Cannot resize the ${type} filesystem on ${name}: ${missing.join(', ')} not found in PATH.`);
}

/** The tools live in sbin, which is not in everybody's PATH. */
function toolPath(tool: string): string | null {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  const paths = folders.filter((folder) => folder !== '').map((folder) => join(folder, tool));
  return paths.find((path) => isExecutable(path)) ?? null;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    // Not there, or not for us: the same to who looks for a tool.
    return false;
  }
}

/** Runs a tool with its output on ours; gives its exit code. */
function runTool(tool: string, args: readonly string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(toolPath(tool) ?? tool, args, { stdio: ['ignore', 'inherit', 'inherit'] });
    child.once('error', (error) => reject(new CommandError(`${tool}: ${error.message}`, 5, { cause: error })));
    child.once('close', (code) => resolve(code ?? -1));
  });
}

/** Runs a tool; gives what it prints. */
function readTool(tool: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(toolPath(tool) ?? tool, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
    child.once('error', (error) => reject(new CommandError(`${tool}: ${error.message}`, 5, { cause: error })));
    child.once('close', (code) => {
      if (code === 0) resolve(text);
      else reject(new CommandError([`${tool} failed (${code}).`, 'Filesystem resize failed.']));
    });
  });
}
