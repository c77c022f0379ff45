/**
 * The block device interface: what every layer that holds bytes offers, be it an image file, a block device, a test
 * device or a device-mapper volume stacked on others.
 *
 * Invariants (block/request.ts has those of a request)
 *  - `submit` only queues; work starts at most once per event-loop turn, and completions come from a later callback.
 *  - A flush completes when every write completed before the flush was submitted is durable.
 *  - Requests inside `limits` are the caller's duty and asserted; a device's own failures are errnos on the request.
 */
import type { IoRequest } from './request.ts';

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
}

export interface BlockDevice {
  /** The path, or the name of what it is, for messages. */
  readonly name: string;
  readonly limits: DeviceLimits;
  /** Queues a request; `request.owner.ioDone` follows from a later callback. */
  submit(request: IoRequest): void;
  /** Waits for what is in flight, then lets the device go. Nothing may be submitted afterwards. */
  close(): Promise<void>;
}
