/**
 * A volume's contents as a plain Buffer, and the judging of requests against it.
 *
 * Invariants
 *  - A byte is known or unknown. Discards and failed changes make bytes unknown; writes and zeroes make them known.
 *  - Holes behave as their targets do: zero holes read as zeros whatever was written, error holes fail every request.
 */
import assert from 'node:assert/strict';
import { Op } from '../../src/block/request.ts';

export interface Hole {
  /** Bytes, end exclusive. */
  readonly start: number;
  readonly end: number;
  readonly kind: 'zero' | 'error';
}

export interface Command {
  readonly op: Op;
  readonly offset: number;
  readonly length: number;
  readonly flags: number;
  readonly seed: number;
}

function overlaps(a: { offset: number; length: number }, start: number, end: number): boolean {
  return a.offset < end && start < a.offset + a.length;
}

/** Whether two requests in flight together have no defined outcome. */
export function race(a: Command, b: Command): boolean {
  if (a.op === Op.flush || b.op === Op.flush || (a.op === Op.read && b.op === Op.read)) return false;
  return overlaps(a, b.offset, b.offset + b.length);
}

export class Model {
  readonly #bytes: Buffer;
  readonly #known: Buffer;
  readonly #holes: readonly Hole[];

  constructor(sizeBytes: number, holes: readonly Hole[]) {
    this.#bytes = Buffer.alloc(sizeBytes);
    this.#known = Buffer.alloc(sizeBytes, 1);
    this.#holes = holes;
  }

  mustFail(command: Command): boolean {
    if (command.op === Op.flush) return false;
    return this.#holes.some((hole) => hole.kind === 'error' && overlaps(command, hole.start, hole.end));
  }

  /** Takes in a change that ended with `errno`; `payload` is what a write carried. */
  changed({ op, offset, length }: Command, payload: Buffer, errno: number): void {
    if (op === Op.read || op === Op.flush) return;
    const end = offset + length;
    if (op === Op.write) payload.copy(this.#bytes, offset);
    else this.#bytes.fill(0, offset, end);
    this.#known.fill(errno === 0 && op !== Op.discard ? 1 : 0, offset, end);
    for (const hole of this.#holes) {
      if (hole.kind !== 'zero' || !overlaps({ offset, length }, hole.start, hole.end)) continue;
      this.#bytes.fill(0, Math.max(offset, hole.start), Math.min(end, hole.end));
      this.#known.fill(1, Math.max(offset, hole.start), Math.min(end, hole.end));
    }
  }

  /** Compares what a read gave. */
  check(offset: number, actual: Buffer): void {
    const end = offset + actual.length;
    if (this.#bytes.subarray(offset, end).equals(actual)) return;
    for (let i = 0; i < actual.length; i++) {
      if (this.#known[offset + i] === 1) assert.equal(actual[i], this.#bytes[offset + i], `byte ${offset + i}`);
    }
  }
}
