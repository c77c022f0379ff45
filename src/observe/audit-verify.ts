/**
 * Reads an audit log and finds what was done to it: changed, missing, added or reordered records.
 *
 * What shows what
 *  - changed: the next record's `prev` is not the line's hash; for the last record, FILE.head's hash is not.
 *  - missing in the middle, reordered, added: numbers that don't count up by one, and hashes that don't fit.
 *  - missing at the end: FILE.head has a higher number. FILE and FILE.head changed together can only be found with a number and
 *    a hash that were noted elsewhere (the daemon logs them when it starts and stops, and at every rotation): `expected`.
 *  - missing at the beginning: the first record's number is not 1, and no rotated file (FILE.SEQ) has the ones before.
 *
 * Invariant: reading only; a damaged file gives problems, never an exception.
 */
import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { type AuditRecord, type ChainLink, FIRST_PREV, lineHash, parseHead, parseRecord } from './audit-record.ts';
import { readHead, readIfThere, rotatedFiles } from './audit-resume.ts';

export interface AuditProblem {
  readonly kind: 'changed' | 'missing' | 'order' | 'damaged' | 'head';
  readonly file: string;
  /** From 1; 0: the file as a whole. */
  readonly line: number;
  readonly text: string;
}

export interface AuditVerdict {
  /** Oldest first. */
  readonly files: readonly string[];
  readonly records: number;
  readonly last: ChainLink | null;
  readonly problems: readonly AuditProblem[];
  /** Worth knowing, and nothing wrong: a record that a crash cut short. */
  readonly notes: readonly string[];
}

export interface VerifyOptions {
  /** A record that must be there, as it was noted elsewhere. */
  readonly expected?: ChainLink;
  /** The first record that is looked at; those before may be gone (rotated files that were archived). Default 1. */
  readonly from?: number;
}

/** A record with its place. */
export interface PlacedRecord {
  readonly file: string;
  readonly line: number;
  readonly record: AuditRecord;
}

/** Checks a log with its rotated files. Throws only if FILE can't be read. */
export async function verifyAudit(path: string, options: VerifyOptions = {}): Promise<AuditVerdict> {
  const chain = new Chain(options);
  const files = [...(await rotatedFiles(path)).map((file) => file.path), path];
  for (const file of files) chain.file(file, await readFile(file));
  chain.end(path, await readHead(path));
  return chain.verdict(files);
}

/** All records of a log and its rotated files, as they are: nothing is verified. Lines that hold none are left out. */
export async function readAudit(path: string): Promise<PlacedRecord[]> {
  const placed: PlacedRecord[] = [];
  for (const file of [...(await rotatedFiles(path)).map((rotated) => rotated.path), path]) {
    const text = ((await readIfThere(file)) ?? Buffer.alloc(0)).toString('utf8');
    text.split('\n').forEach((line, i) => {
      const record = parseRecord(line);
      if (record !== null) placed.push({ file, line: i + 1, record });
    });
  }
  return placed;
}

/** Sequence numbers of volume groups, by uuid, as the newest file of a log leaves them. */
export async function recordedSeqnos(path: string): Promise<ReadonlyMap<string, number>> {
  const seqnos = new Map<string, number>();
  for (const line of ((await readIfThere(path)) ?? Buffer.alloc(0)).toString('utf8').split('\n')) {
    const record = parseRecord(line);
    if (record?.event === 'metadata-changed') seqnos.set(record.uuid, record.found.seqno);
    if (record?.event !== 'command') continue;
    for (const { uuid, seqnoAfter } of record.groups) {
      if (seqnoAfter === null) seqnos.delete(uuid);
      else seqnos.set(uuid, seqnoAfter);
    }
  }
  return seqnos;
}

class Chain {
  readonly #expected: ChainLink | null;
  readonly #from: number;
  readonly #problems: AuditProblem[] = [];
  readonly #notes: string[] = [];
  /** Hashes that somebody may ask for at the end, by number. */
  readonly #hashes = new Map<number, string>();
  #records = 0;
  #last: ChainLink | null = null;
  #lastTime = '';
  /** Lines since the last record that hold none. */
  #fragment: { readonly line: number; readonly lines: Buffer[] } | null = null;

  constructor(options: VerifyOptions) {
    this.#expected = options.expected ?? null;
    this.#from = options.from ?? 1;
  }

  file(file: string, bytes: Buffer): void {
    const lines = split(bytes);
    const unended = bytes.length > 0 && bytes.at(-1) !== 0x0a;
    lines.forEach((line, i) => {
      const record = unended && i === lines.length - 1 ? null : parseRecord(line.toString('utf8'));
      if (record === null) {
        this.#fragment ??= { line: i + 1, lines: [] };
        this.#fragment.lines.push(line);
      } else if (record.seq >= this.#from) {
        this.#record(file, i + 1, line, record);
      }
    });
    // Rotation happens between whole records, so nothing of a fragment continues in the next file.
    if (this.#fragment !== null) {
      const text = unended
        ? 'the last line is no whole record: it was cut short, or the daemon is writing it now'
        : 'this line is no record';
      this.#problem('damaged', file, this.#fragment.line, text);
      this.#fragment = null;
    }
  }

  #record(file: string, lineNumber: number, line: Buffer, record: AuditRecord): void {
    this.#closeFragment(file, record);
    const before = this.#last ?? { seq: this.#from - 1, hash: this.#from === 1 ? FIRST_PREV : record.prev };
    this.#compare(file, lineNumber, record, before);
    const hash = lineHash(line);
    this.#records++;
    this.#last = { seq: record.seq, hash };
    this.#lastTime = record.time;
    this.#hashes.set(record.seq, hash);
  }

  #compare(file: string, line: number, record: AuditRecord, before: ChainLink): void {
    const { seq, prev } = record;
    if (seq > before.seq + 1) {
      const missing = seq === before.seq + 2 ? `record ${seq - 1} is` : `records ${before.seq + 1} to ${seq - 1} are`;
      this.#problem('missing', file, line, `${missing} missing before record ${seq}`);
    } else if (seq <= before.seq) {
      this.#problem('order', file, line, `record ${seq} stands after record ${before.seq}`);
    } else if (prev !== before.hash) {
      const text =
        before.seq === 0
          ? 'record 1 is not the beginning of a log'
          : `record ${before.seq} was changed: record ${seq} was written after one with the hash ${prev}, and not ${before.hash}`;
      this.#problem('changed', file, line, text);
    }
    if (record.time < this.#lastTime) {
      this.#notes.push(`the clock went back between records ${before.seq} and ${seq}`);
    }
  }

  /** Lines that hold no record are right only where a "truncated" record follows that knows them. */
  #closeFragment(file: string, record: AuditRecord): void {
    const fragment = this.#fragment;
    this.#fragment = null;
    if (fragment === null) {
      if (record.event === 'truncated')
        this.#problem('missing', file, 0, `the fragment before record ${record.seq} is gone`);
      return;
    }
    const bytes = Buffer.concat(fragment.lines.flatMap((line, i) => (i === 0 ? [line] : [Buffer.from('\n'), line])));
    if (record.event === 'truncated' && record.hash === lineHash(bytes)) {
      this.#notes.push(
        `${basename(file)}:${fragment.line}: a record that a crash cut short (record ${record.seq} tells)`,
      );
    } else {
      this.#problem('damaged', file, fragment.line, 'this line is no record');
    }
  }

  /** What only somebody outside of the chain can know. */
  end(path: string, headText: string | null): void {
    const head = headText === null ? null : parseHead(headText);
    if (head === null) {
      const what = headText === null ? 'is missing' : 'holds no number and hash';
      this.#problem('head', `${path}.head`, 0, `the file ${what}: records that are missing at the end can't be seen`);
    } else {
      this.#mustHave(head, path, `${basename(path)}.head`);
    }
    if (this.#expected !== null) this.#mustHave(this.#expected, path, 'what was noted');
  }

  #mustHave(link: ChainLink, path: string, source: string): void {
    const lastSeq = this.#last?.seq ?? this.#from - 1;
    if (link.seq < this.#from) return;
    if (link.seq > lastSeq) {
      const missing = link.seq === lastSeq + 1 ? `record ${link.seq} is` : `records ${lastSeq + 1} to ${link.seq} are`;
      this.#problem('missing', path, 0, `${missing} missing at the end: ${source} has the number ${link.seq}`);
      return;
    }
    const hash = this.#hashes.get(link.seq);
    if (hash !== undefined && hash !== link.hash) {
      this.#problem(
        'changed',
        path,
        0,
        `record ${link.seq} was changed: its hash is ${hash}, ${source} has ${link.hash}`,
      );
    }
  }

  #problem(kind: AuditProblem['kind'], file: string, line: number, text: string): void {
    this.#problems.push({ kind, file, line, text });
  }

  verdict(files: readonly string[]): AuditVerdict {
    return { files, records: this.#records, last: this.#last, problems: this.#problems, notes: this.#notes };
  }
}

/** Lines without their newlines. */
function split(bytes: Buffer): Buffer[] {
  const lines: Buffer[] = [];
  let start = 0;
  while (start < bytes.length) {
    const newline = bytes.indexOf(0x0a, start);
    const end = newline === -1 ? bytes.length : newline;
    lines.push(bytes.subarray(start, end));
    start = end + 1;
  }
  return lines;
}
