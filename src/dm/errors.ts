/**
 * The errors of the device-mapper room: TableError for a table that can't be loaded, VolumeError for a verb that doesn't
 * fit the volume's state.
 *
 * Invariants
 *  - A TableError names the volume, the table line (counted from 1; 0 when the whole table is meant) and, where there is
 *    one, the field, so that a reader finds the place without the table in front of him.
 *  - Failed I/O is never an exception: it is an errno on the request (block/request.ts).
 */

export type TableErrorCode =
  | 'EMPTY_TABLE'
  | 'BAD_LINE'
  | 'GAP'
  | 'OVERLAP'
  | 'TOO_LARGE'
  | 'UNKNOWN_TARGET'
  | 'MISSING_FIELD'
  | 'UNKNOWN_FIELD'
  | 'BAD_FIELD'
  | 'BAD_LENGTH'
  | 'NO_DEVICE'
  | 'DEVICE_TOO_SMALL'
  | 'RECURSION';

/** Where in a table something is. */
export interface TablePlace {
  readonly volume: string;
  /** Counted from 1; 0 for the table as a whole. */
  readonly line: number;
  /** The target type's name, or '' when it isn't known. */
  readonly target: string;
}

/** A table that can't be loaded. */
export class TableError extends Error {
  override readonly name: string = 'TableError';
  readonly code: TableErrorCode;
  readonly place: TablePlace;
  /** Path of the parameter, e.g. "stripes[1].offset"; '' when the line itself is wrong. */
  readonly field: string;

  /** `detail` says what was expected and what was found. */
  constructor(code: TableErrorCode, place: TablePlace, field: string, detail: string, options?: ErrorOptions) {
    const target = place.target === '' ? '' : ` (${place.target})`;
    const line = place.line === 0 ? 'table' : `table line ${place.line}${target}`;
    super(`${place.volume}: ${line}${field === '' ? '' : `, ${field}`}: ${detail}`, options);
    this.code = code;
    this.place = place;
    this.field = field;
  }
}

export type VolumeErrorCode =
  | 'CLOSED'
  | 'NO_TABLE'
  | 'NOT_ACTIVE'
  | 'NOT_SUSPENDED'
  | 'SUSPEND_ABORTED'
  | 'NO_SUCH_SECTOR'
  | 'NO_MESSAGES'
  | 'BAD_MESSAGE'
  | 'NOT_IN_SYNC'
  | 'FLUSH_FAILED';

/** A verb that the volume can't do now. */
export class VolumeError extends Error {
  override readonly name: string = 'VolumeError';
  readonly code: VolumeErrorCode;
  readonly volume: string;

  constructor(code: VolumeErrorCode, volume: string, detail: string, options?: ErrorOptions) {
    super(`${volume}: ${detail}`, options);
    this.code = code;
    this.volume = volume;
  }
}
