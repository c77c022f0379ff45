/**
 * Which block should leave the cache: hit rates of replacement policies over made traces.
 *
 *     node bench/cache-policies.ts [--frames 4096] [--requests 1000000]
 *
 * The traces: `zipf` (s = 0.9 over 16 times the cache), `hot+scan` (in turns, as many requests as twice the cache: to a
 * hot set of half the cache, and a scan through what was never read), `loop` (over a fifth more than the cache), `shift` (zipf whose favourites change ten times).
 * The policies: S3-FIFO, which src/block/cache has; LRU; CLOCK, a FIFO with a used bit; 2Q with its authors' shares.
 */
import { parseArgs } from 'node:util';
import { type Replacement, S3Fifo } from '../src/block/cache/s3-fifo.ts';

const { values } = parseArgs({
  options: { frames: { type: 'string', default: '4096' }, requests: { type: 'string', default: '1000000' } },
});
const FRAMES = Number(values.frames);
const REQUESTS = Number(values.requests);

/** Map keeps its keys in order of insertion, which is all that these need. */
class Lru implements Replacement {
  protected readonly order = new Map<number, boolean>();

  insert(frame: number): void {
    this.order.set(frame, false);
  }

  hit(frame: number): void {
    this.order.delete(frame);
    this.order.set(frame, false);
  }

  remove(frame: number): void {
    this.order.delete(frame);
  }

  victim(): number {
    const [frame = -1] = this.order.keys();
    this.order.delete(frame);
    return frame;
  }
}

class Clock extends Lru {
  override hit(frame: number): void {
    this.order.set(frame, true);
  }

  override victim(): number {
    for (;;) {
      const [[frame, used] = [-1, false] as const] = this.order;
      this.order.delete(frame);
      if (!used) return frame;
      this.order.set(frame, false);
    }
  }
}

/** Johnson and Shasha: a FIFO of a quarter, keys that left it, and an LRU of what came back. */
class TwoQ implements Replacement {
  readonly #in = new Map<number, number>();
  readonly #out = new Set<number>();
  readonly #main = new Map<number, number>();

  insert(frame: number, key: number): void {
    if (this.#out.delete(key)) this.#main.set(frame, key);
    else this.#in.set(frame, key);
  }

  hit(frame: number): void {
    const key = this.#main.get(frame);
    if (key === undefined) return;
    this.#main.delete(frame);
    this.#main.set(frame, key);
  }

  remove(frame: number): void {
    this.#in.delete(frame);
    this.#main.delete(frame);
  }

  victim(): number {
    const fromIn = this.#in.size > FRAMES / 4 || this.#main.size === 0;
    const [[frame, key] = [-1, -1] as const] = fromIn ? this.#in : this.#main;
    this.remove(frame);
    if (!fromIn) return frame;
    this.#out.add(key);
    const [oldest = -1] = this.#out;
    if (this.#out.size > FRAMES / 2) this.#out.delete(oldest);
    return frame;
  }
}

const POLICIES: Readonly<Record<string, () => Replacement>> = {
  'S3-FIFO': () => new S3Fifo(FRAMES),
  LRU: () => new Lru(),
  CLOCK: () => new Clock(),
  '2Q': () => new TwoQ(),
};

let state = 1;
function random(): number {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
  return state / 2 ** 32;
}

/** Draws ranks with the odds 1/rank^s. */
function zipf(count: number, s: number): () => number {
  const sums = new Float64Array(count);
  let sum = 0;
  for (let i = 0; i < count; i++) {
    sum += 1 / (i + 1) ** s;
    sums[i] = sum;
  }
  return () => {
    const wanted = random() * sum;
    let low = 0;
    let high = count - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((sums[middle] ?? 0) < wanted) low = middle + 1;
      else high = middle;
    }
    return low;
  };
}

function trace(next: (i: number) => number): Float64Array {
  return Float64Array.from({ length: REQUESTS }, (_, i) => next(i));
}

const draw = zipf(16 * FRAMES, 0.9);
let scanned = 0;
const TRACES: Readonly<Record<string, Float64Array>> = {
  zipf: trace(draw),
  'hot+scan': trace((i) =>
    Math.floor(i / FRAMES / 2) % 2 === 0 ? Math.floor((random() * FRAMES) / 2) : FRAMES + scanned++,
  ),
  loop: trace((i) => i % Math.floor(FRAMES * 1.2)),
  shift: trace((i) => draw() + Math.floor((i * 10) / REQUESTS) * FRAMES * 3),
};

/** The share of hits. */
function run(policy: Replacement, keys: Float64Array): number {
  const frameOf = new Map<number, number>();
  const keyOf = new Float64Array(FRAMES);
  let hits = 0;
  let used = 0;
  for (const key of keys) {
    const found = frameOf.get(key);
    if (found !== undefined) {
      hits++;
      policy.hit(found);
      continue;
    }
    const frame =
      used < FRAMES
        ? used++
        : policy.victim(
            () => false,
            (each) => keyOf[each] ?? -1,
          );
    const old = keyOf[frame] ?? -1;
    if (frameOf.get(old) === frame) frameOf.delete(old);
    keyOf[frame] = key;
    frameOf.set(key, frame);
    policy.insert(frame, key);
  }
  return hits / keys.length;
}

const names = Object.entries(POLICIES);
process.stdout.write(
  `| trace | ${names.map(([name]) => name).join(' | ')} |\n| --- |${' --- |'.repeat(names.length)}\n`,
);
for (const [name, keys] of Object.entries(TRACES)) {
  const cells = names.map(([, make]) => `${(100 * run(make(), keys)).toFixed(1)} %`);
  process.stdout.write(`| ${name} | ${cells.join(' | ')} |\n`);
}
