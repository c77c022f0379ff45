/**
 * Typed access to buffer-layout, the only file that imports it: declarative little-endian structures of the control plane.
 *
 * Invariants
 *  - A u64 is kept as two u32 words while it is encoded or decoded and becomes a number only if it is below 2^53; otherwise a
 *    FormatError (when read) or an assertion (when written) names the field. No value is ever rounded.
 *  - A structure's size is fixed and known from `span`, so that callers can assert it against the format's table.
 */
import assert from 'node:assert/strict';
import { blob, type Layout, seq, struct, u32 } from 'buffer-layout';
import { FormatError, type Where } from './errors.ts';

export { blob, type Layout, seq, struct, u32 };

/** A u64 as its two words. */
export interface U64 {
  readonly lo: number;
  readonly hi: number;
}

const TWO_32 = 2 ** 32;

/** A little-endian u64 field; read it with `fromU64`, write it with `toU64`. */
export function u64(property: string): Layout<U64> {
  return struct<U64>([u32('lo'), u32('hi')], property);
}

/** The number, or a FormatError that names the field if it is 2^53 or more. */
export function fromU64(value: U64, what: string, where: Where): number {
  const number = value.hi * TWO_32 + value.lo;
  if (number > Number.MAX_SAFE_INTEGER) {
    throw new FormatError({ code: 'TOO_LARGE', ...where, what, expected: 'less than 2^53', actual: number });
  }
  return number;
}

/** The two words of a safe non-negative integer. */
export function toU64(value: number): U64 {
  assert(Number.isSafeInteger(value) && value >= 0, `not a u64 below 2^53: ${value}`);
  return { lo: value % TWO_32, hi: Math.floor(value / TWO_32) };
}
