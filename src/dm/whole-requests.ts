/**
 * Requests that are one piece on one device, as most of them are: counted once for volume and device together, and sent there.
 *
 *     request ── in one run of a measured device ──> one child        child.parent = request, child.tag = the leg
 *        └────── anything else ── `send` gives false: dm/request-mapper.ts
 *
 * Where the map is one target with a gate, a request that the gate lets pass goes by the map behind it: that of the target's layer.
 *
 * Invariants
 *  - A request that was sent is told of to its owner when its child has ended, with the child's error; never inside `send`.
 *  - Which map is used changes only while no child is out; what was counted for the one before is kept by volume and devices then.
 *  - Nothing is made per request: children come from the mapper's pool, counts are made with the first request of a leg.
 */
import { type IoRequest, Op, type RequestOwner, type RequestPool } from '../block/request.ts';
import { compileMap, type FlatMap } from './flat-map.ts';
import type { InFlight } from './in-flight.ts';
import { type IoStats, type SharedCounts, SharedCountsOfVolume } from './io-stats.ts';
import type { Gate } from './target.ts';
import { turnClock } from './turn-clock.ts';

/** Bytes of one discard or writeZeroes child; a leg may get one chunk more. */
export const MAX_RANGE_BYTES: number = 64 << 20;

export function isRangeOp(op: Op): boolean {
  return op === Op.discard || op === Op.writeZeroes;
}

export class WholeRequests implements RequestOwner {
  readonly #pool: RequestPool;
  readonly #inFlight: InFlight;
  readonly #shares: SharedCountsOfVolume;
  /** The volume's own map or, where that has a gate, the one behind it. */
  #map: FlatMap = compileMap([]).map;
  #gate: Gate | null = null;
  /** By leg: made when the first request is sent there. */
  #counts: (SharedCounts | null)[] = [];

  constructor(pool: RequestPool, stats: IoStats, inFlight: InFlight) {
    this.#pool = pool;
    this.#inFlight = inFlight;
    this.#shares = new SharedCountsOfVolume(stats);
  }

  /** Sends by the volume's map `map` from now on. */
  proceed(map: FlatMap): void {
    const { gate } = map;
    const way = gate?.layerMap() ?? map;
    if (way === this.#map && gate === this.#gate) return;
    this.end();
    this.#map = way;
    this.#gate = gate;
    this.#counts = way.sinks.map(() => null);
  }

  /** Volume and devices keep what was counted together; no child may be out. */
  end(): void {
    this.#shares.end();
    this.#counts.fill(null);
  }

  /** Sends a request that this volume takes now, and that is no flush, if it is one piece on one device; else gives false. */
  send(request: IoRequest): boolean {
    const map = this.#map;
    const { op, length } = request;
    map.resolve(request.offset, length);
    const { leg } = map;
    if (leg < 0 || map.length !== length || (length > MAX_RANGE_BYTES && isRangeOp(op))) return false;
    const stats = map.stats[leg]!;
    if (stats === null) return false;
    const { legOffset } = map;
    if (this.#gate !== null && !this.#gate.passes(request)) return false;
    const counts = this.#counts[leg] ?? (this.#counts[leg] = this.#shares.with(stats));
    counts.started();
    this.#inFlight.enter();
    const child = this.#pool.acquire(this);
    child.op = op;
    child.flags = request.flags;
    child.offset = legOffset;
    child.length = length;
    child.buffer = request.buffer;
    child.bufferOffset = request.bufferOffset;
    child.parent = request;
    child.tag = leg;
    map.sinks[leg]!.submit(child);
    return true;
  }

  /** The child of a request has ended. */
  ioDone(child: IoRequest): void {
    const { error, tag } = child;
    const request = child.parent!;
    this.#counts[tag]!.ended(child.op, child.length, turnClock.since(request.startedAt), error);
    if (error > 0) {
      this.#map.errors[tag]!++;
      request.failedAt = child.failedAt;
    }
    this.#pool.release(child);
    request.error = error;
    request.owner.ioDone(request);
    this.#inFlight.leave();
  }
}
