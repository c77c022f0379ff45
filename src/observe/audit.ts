/**
 * The audit log's writer: one JSON object a line, appended and made durable one at a time, each line with the hash of the one
 * before (audit-record.ts).
 *
 *     FILE         the records; FILE.SEQ: older ones, SEQ is the last in them
 *     FILE.head    number and hash of the last record: what shows that records are missing at the end
 *
 * Invariants
 *  - An append is on disk (fsync) before its promise settles; appends go one after the other, in the order of the calls.
 *  - `seq` counts up by one over all files; the first line of all has 64 zeroes as `prev`.
 *  - A line that a crash cut short stays, ended by a newline, and the record after it (event "truncated") carries its hash.
 *  - Several processes may write one log, the daemon and commands that run without it: each append has the lock of FILE.head, and goes
 *    on after what others have written.
 *  - Rotation renames the full file and begins a new one, whose first record continues numbers and hashes: no record is dropped.
 *    The daemon never deletes a rotated file.
 */
import { constants } from 'node:fs';
import { type FileHandle, open, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { withFileLock } from '../lvm/file-lock.ts';
import {
  type AuditEvent,
  type AuditRecord,
  type ChainLink,
  FIRST_PREV,
  formatHead,
  HEAD_BYTES,
  lineHash,
  parseHead,
} from './audit-record.ts';
import { resumeAudit } from './audit-resume.ts';

export class AuditError extends Error {
  override readonly name = 'AuditError';
  readonly code: 'CANNOT_OPEN' | 'CANNOT_WRITE' | 'BAD_LAST_RECORD' | 'CLOSED';
  readonly path: string;

  constructor(code: AuditError['code'], path: string, detail: string, cause?: unknown) {
    super(`audit log ${path}: ${detail}`, { cause });
    this.code = code;
    this.path = path;
  }
}

/** Bytes; above it a file is rotated. */
export const DEFAULT_MAX_BYTES: number = 16 * 2 ** 20;
/** Permission bits: who did what is the administrator's to read. */
const MODE = 0o600;
const HEAD_FLAGS = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;
const LOCK_TIMEOUT_MS = 10_000;

export interface AuditOptions {
  readonly path: string;
  /** Bytes; default DEFAULT_MAX_BYTES. */
  readonly maxBytes?: number;
  /** Told of the last record of a file that was renamed. */
  readonly onRotated?: (last: ChainLink) => void;
  /** Tests give their own. */
  readonly now?: () => Date;
}

interface OpenFiles {
  readonly log: FileHandle;
  readonly head: FileHandle;
  bytes: number;
}

export class AuditLog {
  readonly path: string;
  readonly #maxBytes: number;
  readonly #now: () => Date;
  readonly #onRotated: (last: ChainLink) => void;
  #last: ChainLink = { seq: 0, hash: FIRST_PREV };
  #files: OpenFiles | null = null;
  /** FILE.head once more: what is locked must not be closed with the other files. */
  #lock: FileHandle | null = null;
  #turn: Promise<unknown> = Promise.resolve();
  #closed = false;

  private constructor(options: AuditOptions) {
    this.path = options.path;
    this.#maxBytes = options.maxBytes ?? DEFAULT_MAX_BYTES;
    this.#now = options.now ?? ((): Date => new Date());
    this.#onRotated = options.onRotated ?? ((): void => undefined);
  }

  /** Opens the log, or begins it, and goes on after its last record. Throws an AuditError. */
  static async open(options: AuditOptions): Promise<AuditLog> {
    const log = new AuditLog(options);
    await log.#locked(() => log.#reopen(), 'CANNOT_OPEN');
    return log;
  }

  /** The last record: print it where the log's writer can't change it, and `audit verify` can be told what to expect. */
  get last(): ChainLink {
    return this.#last;
  }

  /** Settles when the record is on disk. Rejects with an AuditError; the next append tries again with a fresh file. */
  append(event: AuditEvent): Promise<AuditRecord> {
    const turn = this.#turn.then(() => this.#locked(() => this.#append(event), 'CANNOT_WRITE'));
    this.#turn = Promise.allSettled([turn]);
    return turn;
  }

  /** Waits for the appends under way and lets the files go. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#turn;
    await this.#letGo();
    await this.#lock?.close();
    this.#lock = null;
  }

  /** While no other process writes. Throws an AuditError. */
  async #locked<T>(work: () => Promise<T>, code: 'CANNOT_OPEN' | 'CANNOT_WRITE'): Promise<T> {
    if (this.#closed) throw new AuditError('CLOSED', this.path, 'it was closed');
    try {
      this.#lock ??= await open(`${this.path}.head`, HEAD_FLAGS, MODE);
      return await withFileLock(this.#lock.fd, LOCK_TIMEOUT_MS, work);
    } catch (error) {
      if (error instanceof AuditError) throw error;
      throw new AuditError(code, this.path, reason(error), error);
    }
  }

  /** Whether another process has added records. */
  async #othersWrote(): Promise<boolean> {
    const read = await this.#lock?.read(Buffer.alloc(HEAD_BYTES), 0, HEAD_BYTES, 0);
    const head = parseHead(read?.buffer.toString('latin1', 0, read.bytesRead) ?? '');
    return head !== null && head.seq > this.#last.seq;
  }

  async #append(event: AuditEvent): Promise<AuditRecord> {
    if (this.#files !== null && (await this.#othersWrote())) await this.#letGo();
    if (this.#files === null) await this.#reopen();
    try {
      if ((this.#files?.bytes ?? 0) >= this.#maxBytes) await this.#rotate();
      return await this.#write(event);
    } catch (error) {
      // What is on disk now is unknown: the next append reads it again.
      await this.#letGo();
      if (error instanceof AuditError) throw error;
      throw new AuditError('CANNOT_WRITE', this.path, `a record cannot be written: ${reason(error)}`, error);
    }
  }

  async #write(event: AuditEvent): Promise<AuditRecord> {
    const files = this.#files;
    if (files === null) throw new AuditError('CLOSED', this.path, 'it is not open');
    const { seq, hash } = this.#last;
    const record: AuditRecord = { seq: seq + 1, time: this.#now().toISOString(), prev: hash, ...event };
    const line = JSON.stringify(record);
    const { bytesWritten } = await files.log.write(`${line}\n`);
    if (bytesWritten !== Buffer.byteLength(line) + 1) {
      throw new AuditError('CANNOT_WRITE', this.path, `only ${bytesWritten} bytes of a record could be written`);
    }
    await files.log.datasync();
    files.bytes += bytesWritten;
    this.#last = { seq: seq + 1, hash: lineHash(line) };
    await files.head.write(formatHead(this.#last), 0);
    await files.head.datasync();
    return record;
  }

  async #rotate(): Promise<void> {
    const previous = `${this.path}.${this.#last.seq}`;
    await this.#letGo();
    await rename(this.path, previous);
    this.#onRotated(this.#last);
    await this.#openFiles();
    await this.#write({ event: 'rotated', previous });
  }

  async #letGo(): Promise<void> {
    const files = this.#files;
    this.#files = null;
    if (files === null) return;
    await Promise.all([files.log.close(), files.head.close()]);
  }

  async #reopen(): Promise<void> {
    try {
      const files = await this.#openFiles();
      const resumed = await resumeAudit(this.path);
      // What this process wrote and is there no more is a gap, and not forgotten.
      if (resumed.last.seq >= this.#last.seq) this.#last = resumed.last;
      if (resumed.fragment === null) return;
      if (!resumed.fragment.ended) files.bytes += (await files.log.write('\n')).bytesWritten;
      const { bytes, hash } = resumed.fragment;
      await this.#write({ event: 'truncated', bytes, hash });
    } catch (error) {
      await this.#letGo();
      if (error instanceof AuditError) throw error;
      throw new AuditError('CANNOT_OPEN', this.path, reason(error), error);
    }
  }

  async #openFiles(): Promise<OpenFiles> {
    const { O_WRONLY, O_CREAT, O_APPEND, O_NOFOLLOW } = constants;
    const log = await open(this.path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, MODE);
    try {
      const head = await open(`${this.path}.head`, O_WRONLY | O_CREAT | O_NOFOLLOW, MODE);
      const { size } = await log.stat();
      this.#files = { log, head, bytes: size };
      await syncDirectory(dirname(this.path));
      return this.#files;
    } catch (error) {
      if (this.#files === null) await log.close();
      throw error;
    }
  }
}

/** Names of new files last only when their directory was synced. */
async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, constants.O_RDONLY);
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
