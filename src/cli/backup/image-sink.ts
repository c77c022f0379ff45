/**
 * Where a backup image goes: a file that appears when it is whole, or a stream.
 *
 * Invariant: under its own name the file is whole and durable, or not there: what is being written has another name, and goes away when
 * the backup fails or is interrupted. Only a killed process leaves that one behind. A file that somebody else made meanwhile is kept, but
 * with `replace`.
 */
import { type FileHandle, link, open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Writable } from 'node:stream';
import { CommandError, EXIT } from '../messages.ts';
import type { ImageSink } from './write-image.ts';

/** Runs `body` with a new file; the file appears when it has settled well. Throws CommandError. */
export async function withNewFile<Result>(
  path: string,
  { replace }: { readonly replace: boolean },
  body: (sink: ImageSink) => Promise<Result>,
): Promise<Result> {
  if (!replace) await refuseExisting(path);
  const part = join(dirname(path), `.${basename(path)}.${process.pid}.part`);
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
  if (replace || !(await linked(part, path))) await rename(part, path);
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
    await refuseExisting(path);
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
          if (error) fail(new CommandError(EXIT.failed, [`The image can't be written: ${error.message}`]));
          else done();
        });
      }),
  };
}

async function refuseExisting(path: string): Promise<void> {
  try {
    await (await open(path, 'r')).close();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
  }
  throw existing(path);
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
    throw new CommandError(EXIT.failed, [`${path}: can't be written: ${(error as Error).message}`]);
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
