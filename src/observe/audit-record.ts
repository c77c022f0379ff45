/**
 * What the audit log's lines hold, and the chain that they form.
 *
 *     {"seq":7,"time":"2026-11-22T17:00:00.000Z","prev":"<SHA-256 of line 6, hex>","event":"command",…}
 *     FILE.head   0 seq, 16 decimal digits   17 SHA-256 of that record's line, hex   81 newline
 *
 * Invariants: `seq` counts up by one over all files; the first line of all has 64 zeroes as `prev`; a hash is of the line's
 * bytes as they are in the file, without the newline.
 */
import { createHash } from 'node:crypto';

/** Who did it. */
export interface Actor {
  readonly uid: number;
  readonly gid: number;
  readonly pid?: number;
  /** The user's name, where the system knows one. */
  readonly user?: string;
}

/** A VG that a command touched. */
export interface AuditedGroup {
  readonly name: string;
  readonly uuid: string;
  /** Null: it did not exist. */
  readonly seqnoBefore: number | null;
  readonly seqnoAfter: number | null;
}

/** What is recorded; `seq`, `time` and `prev` are the log's. */
export type AuditEvent =
  | {
      readonly event: 'command';
      readonly who: Actor;
      /** "unix:/run/orion-lvm/control.sock /usr/bin/node", "tcp:10.0.0.7:4711", "local". */
      readonly from: string;
      readonly argv: readonly string[];
      readonly exitCode: number;
      readonly groups: readonly AuditedGroup[];
    }
  | {
      readonly event: 'refused';
      readonly who: Actor | null;
      readonly from: string;
      /** A command line, or an NBD export's name. */
      readonly what: readonly string[];
      readonly reason: string;
    }
  | {
      /** Somebody else wrote the metadata of a VG that the daemon serves. */
      readonly event: 'metadata-changed';
      readonly name: string;
      readonly uuid: string;
      readonly expected: { readonly seqno: number; readonly checksum: string };
      readonly found: { readonly seqno: number; readonly checksum: string };
    }
  | { readonly event: 'start' | 'stop'; readonly pid: number; readonly version: string; readonly text: string }
  /** Health: a threshold was passed, or is no longer. */
  | {
      readonly event: 'alert';
      readonly kind: string;
      readonly subject: string;
      readonly state: 'raised' | 'cleared';
      readonly text: string;
    }
  /** The line before was cut short by a crash. */
  | { readonly event: 'truncated'; readonly bytes: number; readonly hash: string }
  /** The records before are in that file. */
  | { readonly event: 'rotated'; readonly previous: string };

export type AuditRecord = AuditEvent & { readonly seq: number; readonly time: string; readonly prev: string };

const MAX_RECORDED_CHARACTERS = 16_384;
const MAX_RECORDED_WORDS = 1024;

/** `prev` of the first record of all. */
export const FIRST_PREV: string = '0'.repeat(64);
/** A record's place in the chain. */
export interface ChainLink {
  readonly seq: number;
  /** SHA-256 of the line, hex. */
  readonly hash: string;
}

/** SHA-256 of a line without its newline, hex. */
export function lineHash(line: Uint8Array | string): string {
  return createHash('sha256').update(line).digest('hex');
}

/** The record on a line; null if it holds none. */
export function parseRecord(line: string): AuditRecord | null {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return null;
  }
  return isRecord(value) ? value : null;
}

function isRecord(value: unknown): value is AuditRecord {
  if (typeof value !== 'object' || value === null) return false;
  const { seq, time, prev, event } = value as Readonly<Record<string, unknown>>;
  const named = typeof time === 'string' && typeof event === 'string';
  return named && Number.isSafeInteger(seq) && typeof prev === 'string' && /^[0-9a-f]{64}$/.test(prev);
}

/** Of FILE.head. */
export const HEAD_BYTES = 82;

/** FILE.head's text. */
export function formatHead({ seq, hash }: ChainLink): string {
  return `${String(seq).padStart(16, '0')} ${hash}\n`;
}

/** The link in FILE.head, or null if the text is none (a crash left it empty, or somebody changed it). */
export function parseHead(text: string): ChainLink | null {
  const [, seq, hash] = /^(\d{16}) ([0-9a-f]{64})\n$/.exec(text) ?? [];
  return seq === undefined || hash === undefined ? null : { seq: Number(seq), hash };
}

/** Nobody fills the disk with one long command line: what is cut says by how much. */
export function shortened(words: readonly string[]): readonly string[] {
  const kept: string[] = [];
  let room = MAX_RECORDED_CHARACTERS;
  for (const [at, word] of words.entries()) {
    if (word.length > room || kept.length >= MAX_RECORDED_WORDS) {
      const left = words.slice(at).reduce((sum, each) => sum + each.length, 0);
      return [...kept, `${word.slice(0, room)}… (${words.length - at} words, ${left} characters)`];
    }
    kept.push(word);
    room -= word.length;
  }
  return kept;
}
