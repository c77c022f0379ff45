/**
 * The data path of a volume: each request is mapped to pieces on devices (dm/flat-map.ts), and ends when they have.
 *
 *     request ── comes, and is one piece ───> one child of WholeRequests         (dm/whole-requests.ts)
 *        ├────── was held, or to a target ──> one child                          child.parent = request
 *        └────── crosses borders ── gather ─> children, at most MAX_PIECES       child.parent = gather, gather.parent = request
 *
 * A gather is a pooled request that is never submitted: offset and length are what has not been sent yet, pending counts the
 * children outstanding, error is the first that came back.
 *
 * Invariants
 *  - Children share the request's buffer (`buffer` + `bufferOffset`); nothing is copied and nothing is made per request.
 *  - A request ends once, with the first error of its pieces, when none of them is outstanding; never inside `submit`.
 *  - Long discards and zeroes are sent in ranges of at most MAX_RANGE_BYTES, one per leg where a segment deals out chunks, so
 *    neither memory nor the number of children grows with the length.
 *  - While paused, nothing is sent: new requests are held, and a gather whose children have ended keeps what it has not sent
 *    until `proceed`. The map changes only then.
 *  - A request that a target gives back undone (REQUEUE) is held like a new one, all of it; in a layer, it is given back to the
 *    volume above, where it was held for the suspend.
 */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { IoRequest, Op, type RequestOwner, RequestPool, RequestQueue } from '../block/request.ts';
import { type StatusQuestion, StatusQuestions } from './block-status.ts';
import { EndQueue } from './end-queue.ts';
import { compileMap, type FlatMap, LEG_ERROR, LEG_ZERO } from './flat-map.ts';
import { InFlight } from './in-flight.ts';
import { IoStats } from './io-stats.ts';
import { REQUEUE } from './target.ts';
import { turnClock } from './turn-clock.ts';
import { isRangeOp, MAX_RANGE_BYTES, WholeRequests } from './whole-requests.ts';

const { EIO, EROFS } = constants.errno;

/** Children of one request that are outstanding at the same time (plus one turn of a segment's legs). */
const MAX_PIECES = 128;
/** Long ranges are cut at multiples of this on the device, lest blocks be cut in two that a whole range would have freed. */
const RANGE_BORDER_BYTES = 1 << 20;
/** `tag` of flush child i is FIRST_FLUSH - i: they belong to no leg. */
const FIRST_FLUSH = -1;

export class RequestMapper implements RequestOwner {
  /** What was asked of the volume; waiting for `proceed` counts as time in flight. */
  readonly stats: IoStats = new IoStats();
  readonly #pool = new RequestPool();
  readonly #held = new RequestQueue();
  readonly #parked = new RequestQueue();
  readonly #ended = new EndQueue((request) => this.#finish(request, request.error));
  readonly #inFlight = new InFlight();
  readonly #questions = new StatusQuestions(this.#inFlight);
  readonly #whole: WholeRequests = new WholeRequests(this.#pool, this.stats, this.#inFlight);
  #map: FlatMap = compileMap([]).map;
  #readOnly = false;
  #running = true;
  #unreportedFlushError = 0;
  #lostFlushes = 0;
  #noMoreTables = false;
  readonly #layer: boolean;

  /** `layer`: what is given back is given on to the volume above. */
  constructor(options: { readonly layer: boolean }) {
    this.#layer = options.layer;
  }

  /** Requests begun and not ended, without those held or parked. */
  get inFlight(): number {
    return this.#inFlight.count;
  }

  /** Requests that wait for `proceed`. */
  get waiting(): number {
    return this.#held.size + this.#parked.size + this.#questions.size;
  }

  /** Pooled requests taken and not yet given back. */
  get outstanding(): number {
    return this.#pool.outstanding;
  }

  submit(request: IoRequest): void {
    assert(request.op === Op.flush || (request.length > 0 && request.offset >= 0));
    request.startedAt = turnClock.now();
    if (this.#running && this.#sendWhole(request)) return;
    this.stats.started();
    if (this.#running) this.#start(request);
    else this.#held.push(request);
  }

  #sendWhole(request: IoRequest): boolean {
    const { op } = request;
    return op !== Op.flush && this.#refusal(op, request.offset + request.length) === 0 && this.#whole.send(request);
  }

  /** Adds what a range holds to its list; held while paused, as requests are. */
  blockStatus(question: StatusQuestion): void {
    this.#questions.ask(question, this.#running ? this.#map : null);
  }

  /** From now on nothing is sent. */
  pause(): void {
    this.#running = false;
  }

  /** Settles when nothing is in flight. Meant for a paused mapper. */
  drained(): Promise<void> {
    return this.#inFlight.drained();
  }

  /** Maps by `map` from now on, beginning with what had to wait, in order of arrival. No child may be out in another. */
  proceed(map: FlatMap, readOnly: boolean): void {
    assert(map === this.#map || this.#pool.outstanding === this.#parked.size);
    this.#map = map;
    this.#whole.proceed(map);
    this.#readOnly = readOnly;
    this.#running = true;
    for (let count = this.#parked.size; count > 0; count--) this.#unpark(this.#parked.shift()!);
    for (let request = this.#held.shift(); request !== null; request = this.#held.shift()) this.#start(request);
    this.#questions.proceed(map);
  }

  /** Fails everything that waits; for a paused mapper that will not proceed. */
  failWaiting(errno: number): void {
    for (let request = this.#held.shift(); request !== null; request = this.#held.shift()) {
      this.#inFlight.enter();
      this.#end(request, errno);
    }
    for (let gather = this.#parked.shift(); gather !== null; gather = this.#parked.shift()) {
      this.#inFlight.enter();
      this.#endGather(gather, errno);
    }
    this.#questions.fail(errno);
  }

  /** For a mapper that is done: nothing is in flight or comes any more. */
  close(): void {
    this.#whole.end();
  }

  /** From now on what a target gives back fails: no table will come for it. */
  failGivenBack(): void {
    this.#noMoreTables = true;
  }

  /** Flushes every device of the map, paused or not; gives 0 or the first errno. */
  flush(): Promise<number> {
    return new Promise((resolve) => {
      const request = new IoRequest();
      request.op = Op.flush;
      request.owner = { ioDone: () => resolve(request.error) };
      request.startedAt = turnClock.now();
      this.stats.started();
      this.#start(request);
    });
  }

  /** Keeps an error of a flush that no user asked for: the next flush of a user reports it, for what it failed to save may be his. */
  reportFlushErrorLater(errno: number): void {
    if (this.#unreportedFlushError === 0) this.#unreportedFlushError = errno;
  }

  /** Such an error, for a mapper whose next flush never comes; 0: none. */
  takeFlushError(): number {
    const errno = this.#unreportedFlushError;
    this.#unreportedFlushError = this.#lostFlushes;
    return errno;
  }

  /** Why every flush fails, since what users wrote is lost; 0: it is not. */
  get lostFlushes(): number {
    return this.#lostFlushes;
  }

  /** The same with what is told later, even when nobody waits for it any more. */
  async loseWith(errno: Promise<number>): Promise<void> {
    this.loseFlushes(await errno);
  }

  /** From now on every flush fails with this errno, since what is lost may be any user's, however many they are; nothing, if it is 0. */
  loseFlushes(errno: number): void {
    if (errno === 0) return;
    this.#lostFlushes = errno;
    this.reportFlushErrorLater(errno);
  }

  /** A child has ended. */
  ioDone(child: IoRequest): void {
    const { error, tag } = child;
    const parent = child.parent!;
    const stats = tag < 0 ? this.#map.flushStats[FIRST_FLUSH - tag]! : this.#map.stats[tag]!;
    if (stats !== null) stats.ended(child.op, child.length, turnClock.since(child.startedAt), error);
    if (error > 0 && tag >= 0) {
      this.#map.errors[tag]!++;
      if (parent.owner === this) noteFailure(parent, child);
      else parent.failedAt = child.failedAt;
    }
    this.#pool.release(child);
    if (parent.owner !== this) {
      this.#finish(parent, error);
      return;
    }
    // A failure weighs more than a piece that could be done again.
    if (error !== 0 && parent.error <= 0) parent.error = error;
    parent.pending--;
    if (parent.length > 0) this.#pump(parent);
    if (parent.pending === 0) this.#settle(parent);
  }

  #start(request: IoRequest): void {
    this.#inFlight.enter();
    if (request.op === Op.flush) {
      this.#startFlush(request);
      return;
    }
    const errno = this.#refusal(request.op, request.offset + request.length);
    if (errno !== 0) {
      this.#end(request, errno);
      return;
    }
    const map = this.#map;
    const { length } = request;
    map.resolve(request.offset, length);
    if (map.leg >= 0 && map.length === length && (length <= MAX_RANGE_BYTES || !isRangeOp(request.op))) {
      this.#send(request, request, map.leg, map.legOffset, length, request.bufferOffset);
      return;
    }
    const gather = this.#pool.acquire(this);
    gather.parent = request;
    gather.offset = request.offset;
    gather.length = length;
    this.#pump(gather);
    if (gather.pending === 0) this.#endGather(gather, gather.error);
  }

  /** The errno of a request that this map can't take; the size may have changed while it waited. */
  #refusal(op: Op, end: number): number {
    if (end > this.#map.sizeBytes) return EIO;
    return this.#readOnly && op !== Op.read ? EROFS : 0;
  }

  /** Sends pieces of what the gather has not sent yet, as many as may be outstanding. */
  #pump(gather: IoRequest): void {
    const request = gather.parent!;
    const ranges = isRangeOp(request.op);
    while (this.#running && gather.length > 0 && gather.error === 0 && gather.pending < MAX_PIECES) {
      const legs = ranges ? this.#map.chunkedLegs(this.#map.find(gather.offset)) : 0;
      const sent = legs > 0 ? this.#sendToLegs(gather, request, legs) : this.#sendRun(gather, request, ranges);
      gather.offset += sent;
      gather.length -= sent;
    }
  }

  /** Sends the run at the gather's offset; gives its bytes. */
  #sendRun(gather: IoRequest, request: IoRequest, ranges: boolean): number {
    const map = this.#map;
    map.resolve(gather.offset, ranges ? Math.min(gather.length, MAX_RANGE_BYTES) : gather.length);
    const { leg } = map;
    let { length } = map;
    if (ranges && leg >= 0 && length < gather.length && length === MAX_RANGE_BYTES) {
      length -= (map.legOffset + length) % RANGE_BORDER_BYTES;
    }
    const bufferOffset = request.bufferOffset + (gather.offset - request.offset);
    if (leg >= 0) {
      gather.pending++;
      this.#send(gather, request, leg, map.legOffset, length, bufferOffset);
    } else if (leg === LEG_ERROR) {
      // What was sent before it may fail as well, at an earlier byte.
      if (gather.error <= 0) gather.failedAt = gather.offset - request.offset;
      gather.error = EIO;
    } else if (request.op === Op.read) {
      assert(leg === LEG_ZERO);
      request.buffer.fill(0, bufferOffset, bufferOffset + length);
    }
    return length;
  }

  /** Sends a discard or writeZeroes of a chunked segment as one range per leg; gives the bytes of the segment covered. */
  #sendToLegs(gather: IoRequest, request: IoRequest, legs: number): number {
    const map = this.#map;
    const { offset } = gather;
    const segment = map.find(offset);
    const firstLeg = map.firstLeg(segment);
    let end = Math.min(offset + gather.length, map.end(segment));
    // Cut where all legs end a chunk.
    if (end > offset + legs * MAX_RANGE_BYTES) end = map.rowStart(segment, offset + legs * MAX_RANGE_BYTES, offset);
    for (let leg = 0; leg < legs; leg++) {
      const from = map.legPosition(segment, leg, offset);
      const to = map.legPosition(segment, leg, end);
      if (to === from) continue;
      gather.pending++;
      this.#send(gather, request, firstLeg + leg, from, to - from, 0);
    }
    return end - offset;
  }

  #send(
    parent: IoRequest,
    request: IoRequest,
    leg: number,
    offset: number,
    length: number,
    bufferOffset: number,
  ): void {
    const child = this.#pool.acquire(this);
    child.op = request.op;
    child.flags = request.flags;
    child.offset = offset;
    child.length = length;
    child.buffer = request.buffer;
    child.bufferOffset = bufferOffset;
    child.parent = parent;
    child.tag = leg;
    this.#begin(child, this.#map.stats[leg]!);
    this.#map.sinks[leg]!.submit(child);
  }

  /** Counts a child on the device that it goes to. */
  #begin(child: IoRequest, stats: IoStats | null): void {
    if (stats === null) return;
    child.startedAt = turnClock.now();
    stats.started();
  }

  #startFlush(request: IoRequest): void {
    const sinks = this.#map.flushSinks;
    const gather = this.#pool.acquire(this);
    gather.parent = request;
    gather.error = this.takeFlushError();
    gather.pending = sinks.length;
    for (let i = 0; i < sinks.length; i++) {
      const child = this.#pool.acquire(this);
      child.op = Op.flush;
      child.parent = gather;
      child.tag = FIRST_FLUSH - i;
      this.#begin(child, this.#map.flushStats[i]!);
      sinks[i]!.submit(child);
    }
    if (sinks.length === 0) this.#endGather(gather, gather.error);
  }

  /** A gather without outstanding children has ended, or waits for the end of a pause to send the rest. */
  #settle(gather: IoRequest): void {
    if (gather.length > 0 && gather.error === 0) {
      this.#parked.push(gather);
      this.#inFlight.leave();
      return;
    }
    const request = gather.parent!;
    const { error } = gather;
    request.failedAt = gather.failedAt;
    this.#pool.release(gather);
    this.#finish(request, error);
  }

  #unpark(gather: IoRequest): void {
    this.#inFlight.enter();
    const errno = this.#refusal(gather.parent!.op, gather.offset + gather.length);
    if (errno === 0) this.#pump(gather);
    else gather.error = errno;
    if (gather.pending === 0) this.#endGather(gather, gather.error);
  }

  #endGather(gather: IoRequest, errno: number): void {
    const request = gather.parent!;
    request.failedAt = gather.failedAt;
    this.#pool.release(gather);
    this.#end(request, errno);
  }

  /** Completes a request from the next turn: for callers that may be inside its `submit`. */
  #end(request: IoRequest, errno: number): void {
    this.#ended.end(request, errno);
  }

  #finish(request: IoRequest, errno: number): void {
    if (errno === REQUEUE && this.#noMoreTables) {
      this.#finish(request, EIO);
      return;
    }
    if (errno === REQUEUE && !this.#layer) {
      this.#inFlight.leave();
      if (this.#running) this.#start(request);
      else this.#held.push(request);
      return;
    }
    request.error = errno;
    this.stats.ended(request.op, request.length, turnClock.since(request.startedAt), errno);
    request.owner.ioDone(request);
    this.#inFlight.leave();
  }
}

/** Notes where a piece failed in the request that it was gathered for: the first such byte counts. */
function noteFailure(gather: IoRequest, child: IoRequest): void {
  // Pieces of a range that is dealt out to several legs stand for its beginning.
  const at = Math.max(child.bufferOffset - gather.parent!.bufferOffset, 0) + child.failedAt;
  gather.failedAt = gather.error > 0 ? Math.min(gather.failedAt, at) : at;
}
