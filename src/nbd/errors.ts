/**
 * What can go wrong in this room, in its two kinds: errors of the control plane (a listener that can't be opened) as one
 * coded class, and the error numbers of replies.
 *
 * Invariant: a reply carries only the numbers of `NbdErrno`; any other errno of a volume becomes one of them here.
 */
import { constants } from 'node:os';
import { NbdErrno } from './constants.ts';

export type NbdErrorCode =
  /** Somebody listens there already, or what lies at the path is not a socket. */
  | 'ADDRESS_IN_USE'
  /** The listener could not be opened; `cause` has the system's error. */
  | 'LISTEN_FAILED'
  /** The server is closing or closed. */
  | 'CLOSED';

export class NbdError extends Error {
  override readonly name = 'NbdError';
  readonly code: NbdErrorCode;
  /** The address, as `unix:/path` or `tcp:host:port`. */
  readonly address: string;

  constructor(code: NbdErrorCode, address: string, detail: string, cause?: unknown) {
    super(`${address}: ${detail}`, cause === undefined ? undefined : { cause });
    this.code = code;
    this.address = address;
  }
}

const { errno } = constants;
const REPLY_ERRNO: ReadonlyMap<number, NbdErrno> = new Map<number, NbdErrno>([
  [0, NbdErrno.ok],
  [errno.EPERM, NbdErrno.eperm],
  [errno.EACCES, NbdErrno.eperm],
  [errno.EROFS, NbdErrno.eperm],
  [errno.ENOMEM, NbdErrno.enomem],
  [errno.EINVAL, NbdErrno.einval],
  [errno.ENOSPC, NbdErrno.enospc],
  [errno.EDQUOT, NbdErrno.enospc],
  [errno.EFBIG, NbdErrno.enospc],
  // NBD keeps ENOTSUP for FAST_ZERO, which is judged before: to the client the command itself is what can't be done.
  [errno.EOPNOTSUPP, NbdErrno.einval],
  [errno.ENOTSUP, NbdErrno.einval],
]);

const FAILURE_TEXT: ReadonlyMap<NbdErrno, string> = new Map<NbdErrno, string>([
  [NbdErrno.eperm, 'the volume takes no writes'],
  [NbdErrno.eio, 'I/O error on the volume'],
  [NbdErrno.enomem, 'the volume is out of memory'],
  [NbdErrno.einval, 'the volume does not support this'],
  [NbdErrno.enospc, 'no space left on the volume'],
]);

/** What became of a command that the volume failed to carry out, for people. */
export function failureText(error: NbdErrno): string {
  return FAILURE_TEXT.get(error) ?? `error ${error}`;
}

/** The number for a reply; `errnoOfVolume` is 0 or a positive errno of this system. Anything unlisted is EIO. */
export function replyErrno(errnoOfVolume: number): NbdErrno {
  return REPLY_ERRNO.get(errnoOfVolume) ?? NbdErrno.eio;
}
