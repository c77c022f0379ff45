/**
 * What can go wrong while the daemon is configured, started or reloaded: one coded error class, one message table.
 *
 * Invariants
 *  - A message names the object (key, path, address), what was found, and what would be accepted or done about it.
 *  - `exitCode` is LVM2's: 3 for a usage or configuration mistake, 5 for something that failed.
 */

/** Bad usage or a bad configuration, as LVM2's EINVALID_CMD_LINE. */
export const EXIT_USAGE = 3;
/** The work itself failed, as LVM2's ECMD_FAILED. */
export const EXIT_FAILED = 5;

export type DaemonFault =
  /** Flags, the config file's text or its values; each problem is a whole sentence. */
  | { readonly code: 'BAD_CONFIG'; readonly problems: readonly string[] }
  | { readonly code: 'NO_DEVICES'; readonly reason: string }
  /** Held by another program; the reason names the device. */
  | { readonly code: 'DEVICE_BUSY'; readonly reason: string }
  /** The reason starts with the address. */
  | { readonly code: 'LISTEN_FAILED'; readonly reason: string }
  | { readonly code: 'RUN_DIR'; readonly path: string; readonly reason: string }
  /** A flush or a close at the end. */
  | { readonly code: 'CLOSE_FAILED'; readonly reason: string }
  /** Nothing was handed over to the process that was to follow, and everything goes on. */
  | { readonly code: 'HAND_OVER'; readonly reason: string }
  /** Everything was handed over, and the process that followed has failed. */
  | { readonly code: 'HAND_OVER_LOST'; readonly reason: string }
  | { readonly code: 'DEMO_FAILED'; readonly path: string; readonly reason: string };

export class DaemonError extends Error {
  override readonly name: string = 'DaemonError';
  readonly fault: DaemonFault;
  readonly code: DaemonFault['code'];
  readonly exitCode: number;

  constructor(fault: DaemonFault, options?: ErrorOptions) {
    super(messageOf(fault), options);
    this.fault = fault;
    this.code = fault.code;
    this.exitCode = fault.code === 'BAD_CONFIG' ? EXIT_USAGE : EXIT_FAILED;
  }
}

type FaultOf<Code extends DaemonFault['code']> = Extract<DaemonFault, { readonly code: Code }>;

const MESSAGES: { readonly [Code in DaemonFault['code']]: (fault: FaultOf<Code>) => string } = {
  BAD_CONFIG: ({ problems }) => problems.join('\n'),
  NO_DEVICES: ({ reason }) => `no devices to serve: ${reason}`,
  DEVICE_BUSY: ({ reason }) => `${reason}; only one daemon may hold a device`,
  LISTEN_FAILED: ({ reason }) => `cannot listen on ${reason}`,
  RUN_DIR: ({ path, reason }) => `cannot use the run-time directory ${path}: ${reason}`,
  CLOSE_FAILED: ({ reason }) => reason,
  HAND_OVER: ({ reason }) => `not handed over: ${reason}`,
  HAND_OVER_LOST: ({ reason }) => `handed over, and lost: ${reason}`,
  DEMO_FAILED: ({ path, reason }) => `cannot make the demo volume group in ${path}: ${reason}`,
};

function messageOf<Code extends DaemonFault['code']>(fault: FaultOf<Code>): string {
  const message: (fault: FaultOf<Code>) => string = MESSAGES[fault.code];
  return message(fault);
}

/**
 * Whether an error is of a kind that a running system brings with it (a device, a socket, a file), so that its message says
 * enough; everything else is a mistake in the program.
 */
export function isOperatingError(error: unknown): error is Error {
  const code = codeOf(error);
  // Node's own complaints (ERR_ASSERTION, ERR_INVALID_ARG_TYPE, …) are about the program.
  return code !== undefined && !code.startsWith('ERR_');
}

/** Waits until all have ended, even when some fail; then throws what failed as one error. */
export async function settleAll(work: readonly Promise<unknown>[], message: string): Promise<void> {
  const outcomes = await Promise.allSettled(work);
  const failures = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason as unknown] : []));
  if (failures.length > 0) throw new AggregateError(failures, message);
}

/** The single errors, first to last, of what a close that tried everything threw. */
export function singleErrors(error: unknown): readonly unknown[] {
  if (error instanceof AggregateError) return error.errors.flatMap(singleErrors);
  if (error instanceof SuppressedError) return [...singleErrors(error.suppressed), ...singleErrors(error.error)];
  return [error];
}

/** An operating system error's code or message, for the `reason` of a fault. */
export function reasonOf(error: unknown): string {
  return systemReason(error) ?? (error instanceof Error ? error.message : String(error));
}

/** The same, or null if the operating system's code is none of the usual ones. */
export function systemReason(error: unknown): string | null {
  return SYSTEM_REASONS[codeOf(error) ?? ''] ?? null;
}

/** `error.code` where there is one: "EADDRINUSE", "ENOENT", … */
export function codeOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

const SYSTEM_REASONS: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EADDRINUSE: 'the address is already in use',
  EADDRNOTAVAIL: 'this machine has no such address',
  EBUSY: 'the device is busy',
  ECONNREFUSED: 'nobody listens there',
  EHOSTUNREACH: 'there is no way to this host',
  EISDIR: 'it is a directory',
  ENETUNREACH: 'there is no way to this network',
  ENOENT: 'no such file or directory',
  ENOSPC: 'no space left on device',
  ENOTDIR: 'a part of the path is not a directory',
  ENOTFOUND: 'the host name is unknown',
  EPERM: 'not permitted',
  EROFS: 'the file system is read-only',
};
