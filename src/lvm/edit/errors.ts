/** A command's refusal: LVM2's words and exit code. Nothing was written when it is thrown by an edit. */

/** 3: the command line is wrong (LVM2's EINVALID_CMD_LINE); 5: the command failed (ECMD_FAILED). */
export type FailureCode = 3 | 5;

export class CommandError extends Error {
  override readonly name = 'CommandError';
  readonly exitCode: FailureCode;
  /** What to print on stderr, a line each, without the two-space indent. */
  readonly lines: readonly string[];

  constructor(lines: string | readonly string[], exitCode: FailureCode = 5, options?: ErrorOptions) {
    const all = typeof lines === 'string' ? [lines] : lines;
    super(all.join('\n'), options);
    this.lines = all;
    this.exitCode = exitCode;
  }
}
