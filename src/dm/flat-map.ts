/**
 * A loaded table as flat arrays: the pure function from a volume's byte to the device's, for the data path.
 *
 *     segment     0          1               2        sorted, tiling [0, sizeBytes); bytes
 *     start   |   0      |  8 MiB        |  20 MiB
 *     chunk   |   0      |  64 KiB       |   0        0: the whole segment is one run
 *     leg     |   0      |  1, 2, 3      |  ZERO      first leg; legs of a segment follow each other
 *
 * Invariants
 *  - Adjacent segments that continue each other on one device (or are both zeros, or both errors) are one segment here; the
 *    table's lines stay as they were loaded and know only their leg numbers.
 *  - `resolve` leaves its answer in the fields `leg`, `legOffset` and `length`: no object is made per request.
 *  - Offsets are safe integers, so quotients below are exact: floor(a / b) is right while a < 2^53.
 */
import type { IoStats } from './io-stats.ts';
import { MeasuredDevice } from './measured-device.ts';
import type { Gate, Mapping, RequestSink } from './target.ts';

/** `leg` of ranges that no device holds. */
export const LEG_ZERO = -1;
export const LEG_ERROR = -2;

export interface MapSegment {
  /** Bytes. */
  readonly start: number;
  readonly length: number;
  readonly mapping: Mapping;
}

interface LegPlace {
  readonly sink: RequestSink;
  /** Null: the sink counts for itself. */
  readonly stats: IoStats | null;
  readonly offset: number;
  readonly flushes: boolean;
}

interface FlatSegment {
  readonly start: number;
  end: number;
  readonly chunk: number;
  /** LEG_ZERO and LEG_ERROR without legs. */
  readonly firstLeg: number;
  readonly legCount: number;
}

export class FlatMap {
  readonly sizeBytes: number;
  /** Every distinct place that writes of this map may go to: what a flush must reach. */
  readonly flushSinks: readonly RequestSink[];
  /** By flush sink. */
  readonly flushStats: readonly (IoStats | null)[];
  /** By leg. */
  readonly sinks: readonly RequestSink[];
  readonly stats: readonly (IoStats | null)[];
  /** Of a map that is one target with a gate. */
  readonly gate: Gate | null;
  /** Failed requests per leg since the map was made. */
  readonly errors: Float64Array;
  /** Answers of `resolve`: the leg, or LEG_ZERO or LEG_ERROR; the byte on its sink; the bytes that may go there at once. */
  leg: number = LEG_ERROR;
  legOffset = 0;
  length = 0;

  readonly #starts: Float64Array;
  readonly #ends: Float64Array;
  readonly #chunks: Float64Array;
  readonly #firstLegs: Int32Array;
  readonly #legCounts: Int32Array;
  readonly #legOffsets: Float64Array;
  /** Some sink can tell zeroes without I/O. */
  readonly #knowsZeroes: boolean;
  #last = 0;

  constructor(segments: readonly FlatSegment[], legs: readonly LegPlace[], gate: Gate | null = null) {
    this.gate = gate;
    this.sizeBytes = segments.at(-1)?.end ?? 0;
    this.sinks = legs.map((leg) => leg.sink);
    this.stats = legs.map((leg) => leg.stats);
    const flushed = new Map(legs.filter((leg) => leg.flushes).map((leg) => [leg.sink, leg.stats]));
    this.flushSinks = [...flushed.keys()];
    this.flushStats = [...flushed.values()];
    this.errors = new Float64Array(legs.length);
    this.#starts = Float64Array.from(segments, (segment) => segment.start);
    this.#ends = Float64Array.from(segments, (segment) => segment.end);
    this.#chunks = Float64Array.from(segments, (segment) => segment.chunk);
    this.#firstLegs = Int32Array.from(segments, (segment) => segment.firstLeg);
    this.#legCounts = Int32Array.from(segments, (segment) => segment.legCount);
    this.#legOffsets = Float64Array.from(legs, (leg) => leg.offset);
    this.#knowsZeroes = this.sinks.some((sink) => sink.zeroRun !== undefined);
  }

  get segmentCount(): number {
    return this.#starts.length;
  }

  /** The segment that holds the byte; the last one found is tried first, for streams stay in it. */
  find(offset: number): number {
    const last = this.#last;
    if (offset >= this.#starts[last]! && offset < this.#ends[last]!) return last;
    let low = 0;
    let high = this.#starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#starts[middle]! <= offset) low = middle;
      else high = middle - 1;
    }
    this.#last = low;
    return low;
  }

  /** Where the range's first piece goes; `offset` and `offset + length` are inside the map. */
  resolve(offset: number, length: number): void {
    const segment = this.find(offset);
    const firstLeg = this.#firstLegs[segment]!;
    const room = this.#ends[segment]! - offset;
    const chunk = this.#chunks[segment]!;
    if (chunk === 0) {
      this.leg = firstLeg;
      this.length = length < room ? length : room;
      if (firstLeg >= 0) this.legOffset = this.#legOffsets[firstLeg]! + (offset - this.#starts[segment]!);
      return;
    }
    const inSegment = offset - this.#starts[segment]!;
    const count = this.#legCounts[segment]!;
    const index = Math.floor(inSegment / chunk);
    const inChunk = inSegment - index * chunk;
    const row = Math.floor(index / count);
    const leg = firstLeg + (index - row * count);
    this.leg = leg;
    this.legOffset = this.#legOffsets[leg]! + row * chunk + inChunk;
    const run = chunk - inChunk;
    const bound = run < room ? run : room;
    this.length = length < bound ? length : bound;
  }

  /** See BlockDevice.zeroRun: what no device holds is zero, and what a target below knows to be. */
  zeroRun(offset: number, length: number): number {
    if (offset + length > this.sizeBytes) return -length;
    const segment = this.find(offset);
    const room = this.#ends[segment]! - offset;
    const run = length < room ? length : room;
    const leg = this.#firstLegs[segment]!;
    if (leg === LEG_ZERO) return run;
    if (!this.#knowsZeroes || leg < 0 || this.#chunks[segment] !== 0) return -run;
    return this.sinks[leg]!.zeroRun?.(this.runPosition(segment, offset), run) ?? -run;
  }

  /** See BlockDevice.zeroesFast: where all that hold some of the range say so. Zeroes of the map are there already. */
  zeroesFast(offset: number, length: number, flags: number): boolean {
    const end = offset + length;
    if (end > this.sizeBytes) return false;
    for (let at = offset; at < end;) {
      const segment = this.find(at);
      const stop = this.#ends[segment]! < end ? this.#ends[segment]! : end;
      const first = this.#firstLegs[segment]!;
      if (first === LEG_ERROR) return false;
      const chunked = this.#chunks[segment] !== 0;
      // Of zeroes there are no legs.
      for (let leg = 0; leg < this.#legCounts[segment]!; leg++) {
        const from = chunked ? this.legPosition(segment, leg, at) : this.runPosition(segment, at);
        const to = chunked ? this.legPosition(segment, leg, stop) : from + (stop - at);
        if (to > from && this.sinks[first + leg]!.zeroesFast?.(from, to - from, flags) !== true) return false;
      }
      at = stop;
    }
    return true;
  }

  /** The byte on the sink of a segment with one leg and no chunks. */
  runPosition(segment: number, offset: number): number {
    return this.#legOffsets[this.#firstLegs[segment]!]! + (offset - this.#starts[segment]!);
  }

  /** Legs that the segment deals its chunks to; 0 when it has no borders inside. */
  chunkedLegs(segment: number): number {
    return this.#chunks[segment] === 0 ? 0 : this.#legCounts[segment]!;
  }

  firstLeg(segment: number): number {
    return this.#firstLegs[segment]!;
  }

  end(segment: number): number {
    return this.#ends[segment]!;
  }

  /** The last byte up to `offset` at which a turn of the legs begins; `offset` itself when that is not after `from`. */
  rowStart(segment: number, offset: number, from: number): number {
    const row = this.#chunks[segment]! * this.#legCounts[segment]!;
    const start = offset - ((offset - this.#starts[segment]!) % row);
    return start > from ? start : offset;
  }

  /**
   * The byte on the sink up to which leg `leg` (counted in its chunked segment) holds what comes before `offset`. Consecutive
   * chunks of a leg lie side by side, so any range of the segment is one range on each leg: from the position of its start
   * to the position of its end.
   */
  legPosition(segment: number, leg: number, offset: number): number {
    const chunk = this.#chunks[segment]!;
    const count = this.#legCounts[segment]!;
    const inSegment = offset - this.#starts[segment]!;
    const index = Math.floor(inSegment / chunk);
    const row = Math.floor(index / count);
    const turn = index - row * count;
    let bytes = row * chunk;
    if (leg < turn) bytes += chunk;
    else if (leg === turn) bytes += inSegment - index * chunk;
    return this.#legOffsets[this.#firstLegs[segment]! + leg]! + bytes;
  }
}

function legPlaces(mapping: Mapping): readonly LegPlace[] {
  if (mapping.kind === 'legs') {
    return mapping.legs.map(({ device, offset }) => ({
      ...(device instanceof MeasuredDevice
        ? { sink: device.inner, stats: device.stats }
        : { sink: device, stats: null }),
      offset,
      flushes: !device.limits.readOnly,
    }));
  }
  return mapping.kind === 'submit' ? [{ sink: mapping.sink, stats: null, offset: 0, flushes: true }] : [];
}

function chunkBytes(mapping: Mapping): number {
  if (mapping.kind === 'legs') return mapping.chunkBytes;
  return mapping.kind === 'submit' ? mapping.splitBytes : 0;
}

/**
 * Flattens a table's segments (sorted, tiling) into a map. `firstLegs[i]` is where segment i's legs are counted from in
 * `map.errors`; segments that were joined share theirs.
 */
export function compileMap(segments: readonly MapSegment[]): { readonly map: FlatMap; readonly firstLegs: Int32Array } {
  const flat: FlatSegment[] = [];
  const legs: LegPlace[] = [];
  const firstLegs = new Int32Array(segments.length);
  segments.forEach((segment, i) => {
    const own = legPlaces(segment.mapping);
    const chunk = chunkBytes(segment.mapping);
    const nothing = segment.mapping.kind === 'zero' ? LEG_ZERO : LEG_ERROR;
    const last = flat.at(-1);
    if (last !== undefined && chunk === 0 && last.chunk === 0 && continues(last, legs, own[0], nothing)) {
      last.end = segment.start + segment.length;
      firstLegs[i] = last.firstLeg;
      return;
    }
    const firstLeg = own.length === 0 ? nothing : legs.length;
    flat.push({ start: segment.start, end: segment.start + segment.length, chunk, firstLeg, legCount: own.length });
    legs.push(...own);
    firstLegs[i] = firstLeg;
  });
  const mapping = segments.length === 1 ? segments[0]?.mapping : undefined;
  const gate = mapping?.kind === 'submit' ? (mapping.gate ?? null) : null;
  return { map: new FlatMap(flat, legs, gate), firstLegs };
}

/** Whether a segment without chunks (its leg, or what stands for none) goes on where `last` ends. */
function continues(last: FlatSegment, legs: readonly LegPlace[], leg: LegPlace | undefined, nothing: number): boolean {
  if (leg === undefined) return last.firstLeg === nothing;
  const before = legs[last.firstLeg];
  if (before === undefined || last.firstLeg < 0) return false;
  return before.sink === leg.sink && before.offset + (last.end - last.start) === leg.offset;
}
