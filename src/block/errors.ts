/**
 * What can go wrong with a device, as one coded class, and the names of the operating system's error numbers.
 *
 * Invariants
 *  - A message reads by itself: the device's name first, then what was tried and where, then what the system said.
 *  - On the data path failures are positive errnos on requests; this class belongs to the control plane.
 */
import { constants } from 'node:os';
import { getSystemErrorMessage, getSystemErrorName } from 'node:util';

export const Errno: typeof constants.errno = constants.errno;

export type DeviceErrorCode =
  /** Nothing of that name. */
  | 'NOT_FOUND'
  /** The file's permissions forbid it. */
  | 'NO_ACCESS'
  /** A directory, socket, character device, …: nothing that holds blocks. */
  | 'WRONG_KIND'
  /** Another process (or this one) has it locked or mounted. */
  | 'IN_USE'
  /** The device takes no writes, and writing was asked for. */
  | 'READ_ONLY'
  /** 2^53 bytes or more. */
  | 'TOO_LARGE'
  /** A range that does not lie inside the device. */
  | 'OUT_OF_RANGE'
  /** A read, write or flush failed. */
  | 'IO'
  /** The system said anything else; `errno` has it. */
  | 'FAILED';

export interface DeviceErrorDetails {
  /** A positive errno, where the system gave one. */
  readonly errno?: number;
  readonly cause?: unknown;
}

export class DeviceError extends Error {
  override readonly name = 'DeviceError';
  readonly code: DeviceErrorCode;
  /** The device's path or name. */
  readonly device: string;
  /** A positive errno, or 0 when the failure was not the system's. */
  readonly errno: number;

  constructor(code: DeviceErrorCode, device: string, detail: string, details: DeviceErrorDetails = {}) {
    super(`${device}: ${detail}`, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.device = device;
    this.errno = details.errno ?? 0;
  }
}

/** "ENOSPC (no space left on device)" for a positive errno. */
export function errnoText(errno: number): string {
  return `${getSystemErrorName(-errno)} (${getSystemErrorMessage(-errno)})`;
}

/** The positive errno of an error that a Node API gave; EIO when it carries none. */
export function errnoOf(error: NodeJS.ErrnoException): number {
  return error.errno === undefined || error.errno === 0 ? Errno.EIO : Math.abs(error.errno);
}
