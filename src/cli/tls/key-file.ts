/**
 * The files that `tls init` makes: new ones, and the daemon's file of pre-shared keys, which grows.
 *
 * Invariants
 *  - One process at a time changes a directory: it holds a lock on the directory itself, so that nothing but what was asked for is left there.
 *  - A file of keys is replaced by a whole new one, which is durable before it gets the name: a daemon that reads it meanwhile, or a crash,
 *    finds the old keys or the new ones, never a part. Owner and group stay as they were, and nobody else may read it.
 *  - What can't be made completely is taken away again, but for directories.
 */
import {
  closeSync,
  existsSync,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { parsePskFile } from '../../daemon/client/psk-file.ts';
import { withFileLock } from '../../lvm/file-lock.ts';
import { CommandError, EXIT } from '../messages.ts';
import { systemWords } from '../../lvm/system-error.ts';

export interface NewFile {
  readonly path: string;
  readonly text: string;
  readonly secret: boolean;
}

/** Others make keys for all of their clients meanwhile, which takes seconds. */
const LOCK_MS = 120_000;

/** Makes `directory` if it is missing, and runs `body` while nobody else does in this directory. */
export async function alone<Result>(directory: string, body: () => Promise<Result> | Result): Promise<Result> {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const fd = openSync(directory, 'r');
  try {
    let begun = false;
    const begin = async (): Promise<Result> => {
      begun = true;
      return body();
    };
    return await withFileLock(fd, LOCK_MS, begin).catch((error: unknown) => {
      throw begun ? error : new CommandError(EXIT.failed, [`${directory}: ${systemWords(error)}.`]);
    });
  } finally {
    closeSync(fd);
  }
}

/** Makes files that are not there yet, in directories that are made where they are missing. */
export function writeNew(files: readonly NewFile[]): void {
  const made: string[] = [];
  try {
    for (const { path, text, secret } of files) {
      mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
      const fd = openSync(path, 'wx', secret ? 0o600 : 0o644);
      made.push(path);
      writeWhole(fd, path, text);
    }
    for (const directory of new Set(files.map(({ path }) => dirname(path)))) syncDirectory(directory);
  } catch (error) {
    for (const path of made) rmSync(path, { force: true });
    throw error;
  }
}

/** The names in a file of keys, and its text; nobody and nothing if it is missing. Throws CommandError where a line is none. */
export function readKeys(path: string): { readonly text: string; readonly names: ReadonlySet<string> } {
  if (!existsSync(path)) return { text: '', names: new Set() };
  const text = readFileSync(path, 'utf8');
  const problems: string[] = [];
  const keys = parsePskFile(text, (line, problem) => problems.push(`${path}:${line}: ${problem}`));
  if (problems.length > 0) {
    throw new CommandError(EXIT.failed, [
      ...problems,
      `${path} is not changed: mend or remove that first (a line may be cut off where a disk was full).`,
    ]);
  }
  return { text, names: new Set(Object.keys(keys)) };
}

/** Puts a file of keys in the place of the one at `path`. */
export function replaceKeys(path: string, text: string): void {
  const target = realpathSync(path);
  const before = statSync(target);
  const next = `${target}.new`;
  // One that is left was never anybody's: who made it was the only one at the time.
  rmSync(next, { force: true });
  const fd = openSync(next, 'wx', 0o600);
  try {
    const { uid, gid } = fstatSync(fd);
    if (uid !== before.uid || gid !== before.gid) fchownSync(fd, before.uid, before.gid);
    fchmodSync(fd, before.mode & 0o770);
    writeWhole(fd, next, text);
    renameSync(next, target);
  } catch (error) {
    rmSync(next, { force: true });
    throw error;
  }
  syncDirectory(dirname(target));
}

/** Writes, makes durable and closes. Throws CommandError. */
function writeWhole(fd: number, path: string, text: string): void {
  try {
    writeFileSync(fd, text);
    fsyncSync(fd);
  } catch (error) {
    // The system's own message does not say where.
    throw new CommandError(EXIT.failed, [`${path}: can't be written: ${systemWords(error)}. Nothing was made.`]);
  } finally {
    closeSync(fd);
  }
}

function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
