/**
 * Errors of the lvm room: what is wrong with a volume group's metadata or with the devices named by the user.
 *
 * Invariant: `message` is complete for people (LVM2's wording where LVM2 has one); `code` is for programs.
 */

export type LvmErrorCode =
  /** A device, glob or directory that the user named gives nothing. */
  | 'DEVICE_NOT_FOUND'
  /** The text is well-formed and says something impossible. */
  | 'BAD_METADATA';

export class LvmError extends Error {
  override readonly name = 'LvmError';
  readonly code: LvmErrorCode;

  constructor(code: LvmErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
