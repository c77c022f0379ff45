/**
 * The block device interface: what every layer that holds bytes offers, be it an image file, a block device, a test
 * device or a device-mapper volume stacked on others.
 *
 * Invariants (block/request.ts has those of a request)
 *  - `submit` only queues; work starts at most once per event-loop turn, and completions come from a later callback.
 *  - A flush completes when every write completed before the flush was submitted is durable.
 *  - Requests inside `limits` are the caller's duty and asserted; a device's own failures are errnos on the request.
 *  - A write to a read-only device ends with EROFS.
 */
import assert from 'node:assert/strict';
import type { ExtentList, StatusDone } from './extents.ts';
import { Op, type IoRequest } from './request.ts';

/** How the device would like to be used; what data areas and extents are aligned by. */
export interface DeviceTopology {
  /** Bytes; the smallest request without a penalty (a RAID chunk, a physical sector). */
  readonly minimumIoSize: number;
  /** Bytes; the preferred size of streaming requests (a full RAID stripe); 0 when the device does not say. */
  readonly optimalIoSize: number;
  /** Bytes from the device's start to its first naturally aligned block. */
  readonly alignmentOffset: number;
}

export interface DeviceLimits {
  /** Bytes; below 2^53. */
  readonly sizeBytes: number;
  /** Bytes; a power of two, at least 512. */
  readonly logicalBlockSize: number;
  /** Bytes; a power of two, at least logicalBlockSize. */
  readonly physicalBlockSize: number;
  /** Offsets and lengths of requests must be multiples of this many bytes: 1 where the kernel's page cache takes any. */
  readonly requestAlignment: number;
  readonly readOnly: boolean;
  /** Whether `discard` frees space; where it can't, a discard completes without doing anything. */
  readonly canDiscard: boolean;
  /** Bytes; 0 when `canDiscard` is false. */
  readonly discardGranularity: number;
  /** Absent where nothing is known (files, test devices). */
  readonly topology?: DeviceTopology;
}

export interface BlockDevice {
  /** The path, or the name of what it is, for messages. */
  readonly name: string;
  readonly limits: DeviceLimits;
  /** Queues a request; `request.owner.ioDone` follows from a later callback. */
  submit(request: IoRequest): void;
  /**
   * How much from the range's first byte on is known, without any I/O, to read as zeroes: so many bytes; or, as a negative number, of how
   * many bytes that is not known. From the `ioDone` of a read it tells of what was read. Absent: nothing is known.
   */
  zeroRun?(offset: number, length: number): number;
  /**
   * Whether a `writeZeroes` of the range with these flags is known, without any I/O, to be faster than a write of its zeroes. Absent: it
   * is not known.
   */
  zeroesFast?(offset: number, length: number, flags: number): boolean;
  /**
   * Adds what the range holds to `extents`, from its first byte on, as far as there is room and it is known: at least one byte unless it
   * fails. `done` follows later. Absent: all of it is data.
   */
  blockStatus?(offset: number, length: number, extents: ExtentList, done: StatusDone): void;
  /**
   * The range comes into use here, and others may have written to it before: nothing that is kept of it in memory is to be used. Absent
   * (here and below): nothing is kept.
   */
  enter?(offset: number, length: number): void;
  /**
   * The range goes out of use, and others may write to it: what was written to it is handed on first, then nothing of it is kept. Gives 0,
   * or the errno for which some of it could not be handed on: that is lost.
   */
  leave?(offset: number, length: number): Promise<number>;
  /** Waits for what is in flight, then lets the device go. Nothing may be submitted afterwards. */
  close(): Promise<void>;
}

/** A device of the operating system. */
export interface OpenedDevice extends BlockDevice {
  readonly kind: 'file' | 'block';
  /** The same for every path that leads to this file or block device, and for no other: "file:DEV:INODE", "block:MAJOR:MINOR". */
  readonly identity: string;
  /** The descriptor by which it is open, and an exclusive one is claimed. Absent: it has none. */
  readonly fd?: number;
  /** Told once when a flush has failed: from then on every flush fails. */
  onFlushLost?: ((errno: number) => void) | null;
  /** As if a flush had failed here: it has where somebody else has the device open. */
  loseFlushes?(errno: number): void;
  /** Asks the system for the size again: `limits` grow when it has grown, and never shrink. Absent where it can't change. */
  readonly remeasure?: () => Promise<void>;
}

/** Asserts what a caller owes a device: a range inside it, in whole units of `requestAlignment`, with a payload that fits. */
export function assertInLimits(limits: DeviceLimits, request: IoRequest): void {
  if (request.op === Op.flush) return;
  const { offset, length } = request;
  assert(Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length > 0);
  assert(offset + length <= limits.sizeBytes, 'a request past the end of the device');
  assert(offset % limits.requestAlignment === 0 && length % limits.requestAlignment === 0, 'an unaligned request');
  if (request.op === Op.read || request.op === Op.write) {
    assert(request.bufferOffset >= 0 && request.bufferOffset + length <= request.buffer.length);
  }
}
