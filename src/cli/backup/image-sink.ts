/**
 * Where a backup image goes: a file that appears when it is whole, or a stream.
 *
 * Invariant: under its own name the file is whole and durable, or not there: what is being written has another name, and goes away when
 * the backup fails or is interrupted. Only a killed process leaves that one behind. A file that somebody else made meanwhile is kept, but
 * with `replace`; what is no regular file (a device, a pipe, a link) is kept in any case, and known before anything is read.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, link, lstat, open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Writable } from 'node:stream';
import { CommandError, EXIT } from '../messages.ts';
import type { ImageSink } from './write-image.ts';
import { systemWords } from '../../lvm/system-error.ts';

/** Runs `body` with a new file; the file appears when it has settled well. Throws CommandError. */
export async function withNewFile<Result>(
  path: string,
  { replace }: { readonly replace: boolean },
  body: (sink: ImageSink) => Promise<Result>,
): Promise<Result> {
  await told(path, refuseExisting(path, replace));
  // Not made of the file's own name, which may be as long as names can be.
  const part = join(dirname(path), `.orion-lvm-${randomBytes(8).toString('hex')}.part`);
  const file = await told(path, open(part, 'wx', 0o600));
  try {
    const result = await body({ write: (bytes) => told(path, writeAll(file, bytes)) });
    await told(path, finish(file, part, path, replace));
    return result;
  } catch (error) {
    await Promise.allSettled([file.close()]);
    await rm(part, { force: true });
    throw error;
  }
}

async function finish(file: FileHandle, part: string, path: string, replace: boolean): Promise<void> {
  await file.sync();
  await file.close();
  if (replace || !(await linked(part, path))) {
    await refuseExisting(path, replace);
    await rename(part, path);
  }
  await syncDirectory(dirname(path));
}

/** Gives the file its name if nobody has that. False: the file system has no links. */
async function linked(part: string, path: string): Promise<boolean> {
  try {
    await link(part, path);
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') throw existing(path);
    if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS'].includes(code)) throw error;
    return false;
  }
  await rm(part);
  return true;
}

/** A stream that is somebody else's. A write that it does not take is a CommandError. */
export function streamSink(stream: Writable): ImageSink {
  // A reader that goes early is no quiet end, as for the output of other commands: each write tells of its own failure.
  stream.removeAllListeners('error');
  stream.on('error', () => undefined);
  return {
    write: (bytes) =>
      new Promise((done, fail) => {
        stream.write(bytes, (error) => {
          if (error) fail(new CommandError(EXIT.failed, [`The image can't be written: ${systemWords(error)}`]));
          else done();
        });
      }),
  };
}

/** Nothing may be there; with `replace`, a regular file may. */
async function refuseExisting(path: string, replace: boolean): Promise<void> {
  const found = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw error;
  });
  if (found === null || (replace && found.isFile())) return;
  if (found.isFile()) throw existing(path);
  const way = 'name another, or - for standard output';
  throw new CommandError(EXIT.failed, [`${path} is no regular file, and is kept: ${way}.`]);
}

function existing(path: string): CommandError {
  return new CommandError(EXIT.failed, [`${path} exists already: use --force to replace it.`]);
}

/** What the system refuses, as a CommandError. */
async function told<Result>(path: string, work: Promise<Result>): Promise<Result> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof CommandError) throw error;
    throw new CommandError(EXIT.failed, [`${path}: can't be written: ${systemWords(error)}`]);
  }
}

async function writeAll(file: FileHandle, bytes: Buffer): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    done += (await file.write(bytes, done, bytes.length - done)).bytesWritten;
  }
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
