/**
 * What a range of a volume holds, put together from its map and what the devices under it say. Not on the way of data: it may wait
 * and allocate, but the work for one question is bounded, so an answer may cover less than was asked for.
 *
 *     map       |  linear on A  |  zero  |  striped on B, C      |  error  |
 *     answer    |  A's extents  | hole   |  B's and C's in turn  |  data   |     (who reads an error must see it)
 *
 * Invariant: the map is the same from the first byte to the last: a question is in flight, as a request is, until it is answered.
 */
import { constants } from 'node:os';
import { blockStatusOf, ExtentList, HOLE_STATUS, type StatusDone } from '../block/extents.ts';
import { type FlatMap, LEG_ZERO } from './flat-map.ts';
import type { InFlight } from './in-flight.ts';

/** What a range holds is asked for. */
export interface StatusQuestion {
  readonly offset: number;
  readonly length: number;
  readonly extents: ExtentList;
  readonly done: StatusDone;
  /** Answers instead of the map. Gives 0 or an errno. */
  readonly answer?: (offset: number, end: number, extents: ExtentList) => Promise<number>;
}

/** Questions to devices for one answer. */
const MAX_QUERIES = 64;
/** Extents asked of each leg of a chunked segment. */
const LEG_EXTENTS = 64;
/** Chunks that are looked at one by one for one answer. */
const MAX_CHUNKS = 4096;

/** The extents of one leg, and how much of them was used. */
interface LegCursor {
  readonly extents: ExtentList;
  index: number;
  used: number;
}

/** The questions to one volume. While it is paused they wait, as requests do. */
export class StatusQuestions {
  readonly #inFlight: InFlight;
  #waiting: StatusQuestion[] = [];

  constructor(inFlight: InFlight) {
    this.#inFlight = inFlight;
  }

  /** Those that wait. */
  get size(): number {
    return this.#waiting.length;
  }

  /** Answers by `map`, or waits for it where there is none now. */
  ask(question: StatusQuestion, map: FlatMap | null): void {
    if (map === null) this.#waiting.push(question);
    else this.#answer(question, map);
  }

  /** Answers those that wait. */
  proceed(map: FlatMap): void {
    for (const question of this.#waiting.splice(0)) this.#answer(question, map);
  }

  /** Fails those that wait. */
  fail(errno: number): void {
    for (const { done } of this.#waiting.splice(0)) setImmediate(done, errno);
  }

  #answer({ offset, length, extents, done, answer }: StatusQuestion, map: FlatMap): void {
    const end = offset + length;
    this.#inFlight.enter();
    const ended = (errno: number): void => {
      done(errno);
      this.#inFlight.leave();
    };
    if (end > map.sizeBytes) setImmediate(ended, constants.errno.EIO);
    else if (answer !== undefined) void answer(offset, end, extents).then(ended);
    else void mapStatus(map, offset, end, extents).then(ended);
  }
}

function ask(map: FlatMap, leg: number, offset: number, length: number, extents: ExtentList): Promise<number> {
  return new Promise((resolve) => {
    blockStatusOf(map.sinks[leg]!, offset, length, extents, resolve);
  });
}

/** Adds what [offset, end) of the map holds to `extents`, or the beginning of it; gives 0, or an errno when not a byte is known. */
async function mapStatus(map: FlatMap, offset: number, end: number, extents: ExtentList): Promise<number> {
  const start = offset - extents.bytes;
  for (let queries = 0; start + extents.bytes < end && queries < MAX_QUERIES;) {
    const at = start + extents.bytes;
    const segment = map.find(at);
    const stop = Math.min(map.end(segment), end);
    const leg = map.firstLeg(segment);
    const legs = map.chunkedLegs(segment);
    let errno = 0;
    if (leg < 0) {
      extents.add(stop - at, leg === LEG_ZERO ? HOLE_STATUS : 0);
    } else if (legs > 1) {
      errno = await chunkedStatus(map, segment, { at, stop }, extents);
      queries += legs;
    } else {
      const position = legs === 1 ? map.legPosition(segment, 0, at) : map.runPosition(segment, at);
      errno = await ask(map, leg, position, stop - at, extents);
      queries++;
    }
    if (errno !== 0 && extents.bytes === 0) return errno;
    // No room for more, or no more is known.
    if (start + extents.bytes === at) break;
  }
  return 0;
}

/** Asks every leg for its part of the range, which is one range there, and deals the answers out chunk by chunk. */
async function chunkedStatus(
  map: FlatMap,
  segment: number,
  { at, stop }: { readonly at: number; readonly stop: number },
  extents: ExtentList,
): Promise<number> {
  const firstLeg = map.firstLeg(segment);
  const cursors: LegCursor[] = [];
  const asked: Promise<number>[] = [];
  let uniform = true;
  for (let leg = 0; leg < map.chunkedLegs(segment); leg++) {
    const from = map.legPosition(segment, leg, at);
    const length = map.legPosition(segment, leg, stop) - from;
    const cursor = { extents: new ExtentList(LEG_EXTENTS), index: 0, used: 0 };
    cursors.push(cursor);
    if (length > 0) asked.push(ask(map, firstLeg + leg, from, length, cursor.extents));
  }
  const errno = (await Promise.all(asked)).find((one) => one !== 0) ?? 0;
  if (errno !== 0) return errno;
  const told = cursors.filter((cursor) => cursor.extents.count > 0);
  const flags = told[0]?.extents.flags[0] ?? 0;
  for (const { extents: own } of told) if (own.count > 1 || own.flags[0] !== flags) uniform = false;
  if (uniform && told.reduce((sum, cursor) => sum + cursor.extents.bytes, 0) === stop - at) {
    extents.add(stop - at, flags);
    return 0;
  }
  let position = at;
  for (let chunks = 0; position < stop && chunks < MAX_CHUNKS; chunks++) {
    map.resolve(position, stop - position);
    const { length } = map;
    if (!dealOut(cursors[map.leg - firstLeg]!, length, extents)) break;
    position += length;
  }
  return 0;
}

/** Moves `length` bytes of the leg's extents over; false when it could move only some of them. */
function dealOut(cursor: LegCursor, length: number, extents: ExtentList): boolean {
  const own = cursor.extents;
  for (let left = length; left > 0;) {
    if (cursor.index === own.count) return false;
    const bytes = Math.min(left, own.lengths[cursor.index]! - cursor.used);
    if (!extents.add(bytes, own.flags[cursor.index]!)) return false;
    left -= bytes;
    cursor.used += bytes;
    if (cursor.used === own.lengths[cursor.index]) {
      cursor.index++;
      cursor.used = 0;
    }
  }
  return true;
}
