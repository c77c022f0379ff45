/**
 * Where an audit log goes on after a restart: the last record that is there, or that FILE.head says was there.
 *
 * Invariants
 *  - Nothing that the log or its head says is lost: where they disagree, the next record is chained so that `audit verify` shows
 *    the gap or the change, for ever.
 *  - A last line that a crash cut short (no newline, or not a record) is reported as a fragment, never removed.
 */
import { readdir, readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { type ChainLink, FIRST_PREV, lineHash, parseHead, parseRecord } from './audit-record.ts';

/** What was left of a record when a crash cut it short. */
export interface Fragment {
  readonly bytes: number;
  /** SHA-256, hex. */
  readonly hash: string;
  /** A newline follows it already. */
  readonly ended: boolean;
}

export interface Resumed {
  /** What the next record is chained to. */
  readonly last: ChainLink;
  readonly fragment: Fragment | null;
}

/** The rotated files of a log, oldest first, with the number of the last record in each. */
export async function rotatedFiles(path: string): Promise<{ readonly path: string; readonly lastSeq: number }[]> {
  const prefix = `${basename(path)}.`;
  const names = await readdir(dirname(path));
  return names
    .filter((name) => name.startsWith(prefix) && /^\d+$/.test(name.slice(prefix.length)))
    .map((name) => ({ path: join(dirname(path), name), lastSeq: Number(name.slice(prefix.length)) }))
    .toSorted((a, b) => a.lastSeq - b.lastSeq);
}

/** The text of FILE.head; null: there is no such file. */
export async function readHead(path: string): Promise<string | null> {
  return readIfThere(`${path}.head`).then((bytes) => bytes?.toString('latin1') ?? null);
}

/** A file's bytes; null: there is no such file. */
export async function readIfThere(path: string): Promise<Buffer | null> {
  try {
    return await readFile(path);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}

export async function resumeAudit(path: string): Promise<Resumed> {
  const { link, fragment } = await lastOf(path);
  const head = parseHead((await readHead(path)) ?? '');
  // A head that is ahead of the log, or knows another last record, is what the log was: the chain then shows the loss.
  const headHolds = head !== null && head.seq >= (link?.seq ?? 0);
  return { last: headHolds ? head : (link ?? { seq: 0, hash: FIRST_PREV }), fragment };
}

async function lastOf(path: string): Promise<{ readonly link: ChainLink | null; readonly fragment: Fragment | null }> {
  const found = lastIn((await readIfThere(path)) ?? Buffer.alloc(0));
  if (found.link !== null) return found;
  // Between the renaming of a full file and the first record of the next.
  const newest = (await rotatedFiles(path)).at(-1);
  const older = newest === undefined ? null : lastIn(await readFile(newest.path));
  return { link: older?.link ?? null, fragment: found.fragment };
}

/** The last record of a file's bytes, and what follows it. */
function lastIn(bytes: Buffer): { readonly link: ChainLink | null; readonly fragment: Fragment | null } {
  let end = bytes.length;
  while (end > 0) {
    const lineEnd = bytes[end - 1] === NEWLINE ? end - 1 : end;
    const start = bytes.lastIndexOf(NEWLINE, lineEnd - 1) + 1;
    const line = bytes.subarray(start, lineEnd);
    const record = lineEnd < end ? parseRecord(line.toString('utf8')) : null;
    if (record !== null) return { link: { seq: record.seq, hash: lineHash(line) }, fragment: fragmentOf(bytes, end) };
    end = start;
  }
  return { link: null, fragment: fragmentOf(bytes, 0) };
}

function fragmentOf(bytes: Buffer, start: number): Fragment | null {
  if (start === bytes.length) return null;
  const ended = bytes.at(-1) === NEWLINE;
  const fragment = bytes.subarray(start, ended ? -1 : undefined);
  return { bytes: fragment.length, hash: lineHash(fragment), ended };
}

const NEWLINE = 0x0a;
