/**
 * `x-orion:segment`: which segment of a volume serves a range, of which type it is, and on which physical volume. Taken from the
 * live table, whose lines are the segments.
 *
 *     status = segment × 1,000,000 + physical volume × 1000 + type        2003001: the 2nd segment, on the 3rd PV, linear
 *
 * so that it can be read in the decimal numbers that programs print. Segments count from 1 in the order of the table, PVs from 1 in
 * the order of the metadata. PV 0: none, or several.
 *
 * Invariant: neighbouring ranges of one segment have one extent; an extent never passes the volume.
 */
import { constants } from 'node:os';
import type { ExtentList, StatusDone, StatusSource } from '../../block/extents.ts';
import type { Table, TableLine } from '../../dm/table.ts';
import type { Volume } from '../../dm/volume.ts';

const SECTOR_BYTES = 512;
const SEGMENT_UNIT = 1_000_000;
const DEVICE_UNIT = 1000;
/** The last numbers that fit stand for all that follow. */
const MAX_SEGMENT = 4293;
const MAX_DEVICE = 999;

/** Types by number: part of the protocol, so numbers are only added. */
export const SEGMENT_TYPES: Readonly<Record<string, number>> = {
  linear: 1,
  striped: 2,
  zero: 3,
  error: 4,
  mirror: 5,
  snapshot: 6,
  'snapshot-origin': 7,
  'snapshot-merge': 8,
};
/** Of every other type. */
const OTHER_TYPE = 999;

/** One segment, as `GET /v1/segments` tells it. */
export interface SegmentInfo {
  /** Bytes. */
  readonly start: number;
  readonly length: number;
  /** What BLOCK_STATUS says. */
  readonly status: number;
  readonly type: string;
  /** Paths. */
  readonly devices: readonly string[];
}

/** The segments of a table; `devices` as in ContextSpec. */
export function segmentsOf(table: Table, devices: readonly string[]): readonly SegmentInfo[] {
  return table.map((line, index) => {
    const used = [...new Set(devicesIn(line.params))];
    const [only = ''] = used;
    const device = used.length === 1 ? Math.min(devices.indexOf(only) + 1, MAX_DEVICE) : 0;
    const type = SEGMENT_TYPES[line.target] ?? OTHER_TYPE;
    const status = Math.min(index + 1, MAX_SEGMENT) * SEGMENT_UNIT + device * DEVICE_UNIT + type;
    return { ...bytesOf(line), status, type: line.target, devices: used };
  });
}

function bytesOf({ start, length }: TableLine): { readonly start: number; readonly length: number } {
  return { start: start * SECTOR_BYTES, length: length * SECTOR_BYTES };
}

/** Device paths under these names, wherever they stand in a line's parameters; layers are tables of their own. */
const DEVICE_KEYS: ReadonlySet<string> = new Set(['device', 'origin', 'cow']);

function devicesIn(params: unknown): readonly string[] {
  if (Array.isArray(params)) return params.flatMap((each: unknown) => devicesIn(each));
  if (typeof params !== 'object' || params === null) return [];
  return Object.entries(params).flatMap(([key, value]: [string, unknown]) =>
    typeof value === 'string' ? (DEVICE_KEYS.has(key) ? [value] : []) : devicesIn(value),
  );
}

export class SegmentStatus implements StatusSource {
  readonly #volume: Volume;
  readonly #devices: readonly string[];
  /** Of the table that was asked last. */
  #known: { readonly table: Table; readonly segments: readonly SegmentInfo[] } | null = null;

  constructor(volume: Volume, devices: readonly string[]) {
    this.#volume = volume;
    this.#devices = devices;
  }

  blockStatus(offset: number, length: number, extents: ExtentList, done: StatusDone): void {
    const table = this.#volume.table();
    const end = offset + length;
    if (table === null || end > this.#volume.limits.sizeBytes) {
      setImmediate(done, constants.errno.EIO);
      return;
    }
    if (this.#known?.table !== table) this.#known = { table, segments: segmentsOf(table, this.#devices) };
    for (const segment of this.#known.segments) {
      const from = Math.max(segment.start, offset);
      const bytes = Math.min(segment.start + segment.length, end) - from;
      if (bytes > 0 && !extents.add(bytes, segment.status)) break;
    }
    setImmediate(done, 0);
  }
}
