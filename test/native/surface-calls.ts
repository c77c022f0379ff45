/**
 * Calls of everything the addon has, at random: right and wrong arguments, any order, from within callbacks, with memory that was
 * detached, resized or is the addon's own. For surface.test.ts, which runs it in a process of its own, by itself and in worker threads.
 *
 *     node surface-calls.ts SEED ROUNDS FOLDER        ends by itself, or in the middle of a callback (process.exit)
 *
 * Invariants
 *  - The same seed makes the same calls, as far as the system answers alike.
 *  - Whatever is thrown by a call is an Error with a code, or a TypeError.
 *  - What may not be done by contract is not done: a region is not detached, and descriptors that are Node's own are not named. Nothing
 *    is allocated that is large, and no lock is waited for.
 */
import assert from 'node:assert/strict';
import { closeSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { isMainThread, threadId, workerData } from 'node:worker_threads';
import { attribute, message } from '../../src/native/netlink.ts';

type Value = unknown;

const addon: Record<string, (...values: Value[]) => Value> = createRequire(import.meta.url)('../../build/orion.node');
const CALLS_PER_ROUND = 60;
const FILE_BYTES = 2 ** 20;
const SLOTS = 64;
const HEADER_WORDS = 16;
const SUBMISSION_WORDS = 10;
/** A generic netlink request that the kernel answers: CTRL_CMD_GETFAMILY of nlctrl. */
const GET_FAMILY = message(0x10, 3, [attribute(2, Buffer.from('nlctrl\0'))]);

interface WorkerData {
  readonly seed: number;
  readonly rounds: number;
  readonly folder: string;
  /** Rounds that are done. */
  readonly done: Int32Array<SharedArrayBuffer>;
}

class Calls {
  readonly #files: number[];
  readonly #sockets: number[] = [];
  readonly #streams: number[] = [];
  #state: number;
  #depth = 0;
  #control: ArrayBuffer | null = null;
  #ready: ArrayBuffer | null = null;
  readonly #exits: boolean;

  /** With `exits` the process or thread may be ended by a callback. */
  constructor(seed: number, folder: string, exits: boolean) {
    this.#state = seed >>> 0 || 1;
    this.#exits = exits;
    this.#files = [folder, '/dev/shm'].flatMap((parent) => {
      const path = join(parent, `orion-surface-${process.pid}-${threadId}`);
      writeFileSync(path, Buffer.alloc(FILE_BYTES, 1));
      const files = [openSync(path, 'r+'), openSync(path, 'r')];
      rmSync(path);
      return files;
    });
    this.#files.push(openSync('/dev/null', 'r+'));
  }

  async run(rounds: number): Promise<void> {
    for (let round = 0; round < rounds; round++) {
      for (let i = 0; i < CALLS_PER_ROUND; i++) this.#step();
      await new Promise(setImmediate);
    }
  }

  #below(bound: number): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return (this.#state >>> 0) % bound;
  }

  #one<T>(values: readonly T[]): T {
    return values[this.#below(values.length)]!;
  }

  #step(): void {
    const what = this.#below(200);
    if (what < 50) this.#push();
    else if (what === 50) this.#control = this.#detach(this.#control);
    else if (what === 51) this.#ready = this.#detach(this.#ready);
    else this.#call();
  }

  /** The memory under another name, or gone. */
  #detach(memory: ArrayBuffer | null): ArrayBuffer | null {
    if (memory === null || memory.detached) return null;
    return this.#below(2) === 0 ? memory.transfer() : memory.transfer(8);
  }

  /** Anything but what is wanted. */
  #wrong(): Value {
    const numbers = [
      -1,
      0,
      1,
      0.5,
      7,
      63,
      64,
      1e6,
      2 ** 31 - 1,
      2 ** 31,
      2 ** 32 - 1,
      2 ** 53,
      Number.NaN,
      -0,
      Infinity,
    ];
    const others = [undefined, null, true, '1', '', 1n, Symbol('s'), {}, [], (): void => undefined, new Proxy([], {})];
    return this.#below(2) === 0 ? this.#one(numbers) : this.#one([...others, ...this.#memories()]);
  }

  /** Memory of every kind. None of it may become a region and be detached later. */
  #memories(): Value[] {
    const resizable = new ArrayBuffer(4096, { maxByteLength: 65_536 });
    const tracking = Buffer.from(resizable);
    if (this.#below(2) === 0) resizable.resize(this.#below(3) * 4096);
    const detached = Buffer.from(new ArrayBuffer(100));
    detached.buffer.transfer();
    const own = [this.#control, this.#ready].filter((memory) => memory !== null && !memory.detached);
    return [
      tracking,
      new Uint8Array(resizable),
      detached,
      Buffer.alloc(0),
      Buffer.from(new SharedArrayBuffer(4096)),
      new Float64Array(10),
      new DataView(new ArrayBuffer(10)),
      ...own.map((memory) => Buffer.from(memory!)),
      ...own,
    ];
  }

  #buffer = (): Value =>
    this.#below(3) === 0 ? this.#one(this.#memories()) : Buffer.alloc(5000 + this.#below(70_000));
  #file = (): Value => this.#one([...this.#files, ...this.#sockets, 1_000_000]);
  #socket = (): Value => this.#one([...this.#sockets, this.#files[0]]);
  #stream = (): Value => this.#one([...this.#streams, 0, 1, 2, 1 << 20]);
  #small = (): Value => this.#below(40);
  #offset = (): Value => this.#below(FILE_BYTES);
  #length = (): Value => this.#one([1, 512, 4096, 1 + this.#below(70_000)]);
  #watch = (): Value => this.#below(4);
  #flag = (): Value => this.#below(2) === 0;
  #callback = (): Value => (): void => {
    this.#inCallback();
  };

  /** By name: what makes each argument. */
  readonly #functions: Record<string, readonly (() => Value)[]> = {
    flock: [this.#file, (): Value => this.#one([5, 6, 12, 4])],
    peerCredentials: [this.#file],
    peerGroups: [this.#file],
    readCached: [this.#file, this.#buffer, this.#offset, this.#length, this.#offset],
    // Punched, or refused for bits that mean nothing: nothing is allocated.
    fallocate: [this.#file, (): Value => this.#one([3, 2 ** 31 - 1]), this.#offset, this.#length, this.#callback],
    blockDiscard: [this.#file, this.#offset, this.#length, this.#callback],
    dataRanges: [this.#file, this.#offset, this.#length, this.#callback],
    pageBuffer: [this.#length],
    directAlignment: [this.#file],
    ringOpen: [(): Value => SLOTS, this.#callback],
    ringClose: [],
    ringLook: [this.#small],
    ringHold: [this.#flag],
    ringAddFile: [this.#file],
    ringRemoveFile: [this.#small],
    ringPin: [this.#buffer],
    ringUnpin: [this.#small],
    netlinkRequest: [(): Value => GET_FAMILY, this.#callback],
    netlinkJoin: [(): Value => 2 ** 31 - 1],
    netlinkReceive: [this.#socket, this.#buffer],
    socketPair: [],
    vsockPeer: [this.#file],
    streamsOpen: [this.#callback],
    streamAdd: [this.#socket],
    streamWatch: [this.#stream, this.#watch],
    streamReceive: [this.#stream, this.#buffer, this.#small, this.#length],
    streamSend: [this.#stream, this.#buffer, this.#small, this.#length, this.#flag],
    streamShutdown: [this.#stream],
    streamClose: [this.#stream],
    streamRelease: [this.#stream],
  };
  readonly #names = Object.keys(this.#functions);

  #call(): void {
    const name = this.#one(this.#names);
    if (name === 'ringClose' && this.#below(10) !== 0) return;
    const makers = this.#functions[name]!;
    const isWrong = this.#below(3) === 0;
    const values = makers.map((make) => (isWrong && this.#below(3) === 0 ? this.#wrong() : make()));
    if (isWrong && this.#below(5) === 0) values.pop();
    // A lock is never waited for, and nothing is allocated by a wrong number that happens to be right.
    if (name === 'flock' && typeof values[1] === 'number') values[1] = this.#one([5, 12, 64]);
    if (name === 'fallocate' && typeof values[1] === 'number') values[1] = 2 ** 31 - 1;
    // The ring waits for what it reads, and a socket or an event may never come.
    if (name === 'ringAddFile' && typeof values[0] === 'number' && !this.#files.includes(values[0])) values[0] = 1e6;
    if (name === 'netlinkRequest' && values[0] !== GET_FAMILY) values[0] = {};
    let result: Value;
    try {
      result = addon[name]!(...values);
    } catch (error) {
      assert(error instanceof TypeError || (error instanceof Error && 'code' in error), `${name}: ${String(error)}`);
      return;
    }
    this.#keep(name, result);
  }

  #keep(name: string, result: Value): void {
    if (name === 'ringOpen' && result instanceof ArrayBuffer) this.#control = result;
    else if (name === 'streamsOpen' && result instanceof ArrayBuffer) this.#ready = result;
    else if (name === 'socketPair' && Array.isArray(result)) this.#keepPair(result as [number, number]);
    else if (name === 'streamAdd' && typeof result === 'number' && result >= 0) this.#streams.push(result);
    else if (name === 'streamRelease' && typeof result === 'number') closeSync(result);
    while (this.#streams.length > 40) this.#streams.shift();
  }

  #keepPair(pair: readonly [number, number]): void {
    this.#sockets.push(...pair);
    while (this.#sockets.length > 8) closeSync(this.#sockets.shift()!);
  }

  /** Submissions of any kind in the ring's memory, or rubbish in its header. */
  #push(): void {
    if (this.#control === null || this.#control.detached || this.#control.byteLength < 4 * HEADER_WORDS) return;
    const words = new Uint32Array(this.#control);
    if (this.#below(20) === 0)
      words[this.#below(4)] = this.#one([0, 1, SLOTS, 2 ** 31, 2 ** 32 - 1, this.#below(2 ** 32)]);
    const doubles = new Float64Array(this.#control);
    const at = HEADER_WORDS + (words[0]! % SLOTS) * SUBMISSION_WORDS;
    const op = this.#one([0, 0, 1, 1, 2, 3, 4, 2 ** 32 - 1]);
    const numbers = [this.#below(FILE_BYTES), 0, 4096, 512, -1, 0.5, Number.NaN, 2 ** 53, 2 ** 31];
    doubles[at / 2] = this.#one(numbers);
    doubles[at / 2 + 1] = this.#one([...numbers, 4096, 4096, 512]);
    words[at + 4] = op;
    words[at + 5] = this.#below(12);
    words[at + 6] = this.#below(40);
    words[at + 7] = this.#one([0, 0, 0, 100, 65_536, 2 ** 32 - 1]);
    words[at + 8] = this.#below(SLOTS + 2);
    // Nothing is allocated.
    words[at + 9] = op === 3 ? this.#one([3, 2 ** 31]) : this.#below(3);
    words[0]!++;
  }

  #inCallback(): void {
    if (this.#exits && this.#below(400) === 0) process.exit(0);
    if (this.#below(20) === 0) throw new Error('thrown by a callback');
    if (this.#depth > 2) return;
    this.#depth++;
    for (let calls = this.#below(4); calls > 0; calls--) this.#step();
    this.#depth--;
  }
}

process.on('uncaughtException', (error) => {
  if (error.message === 'thrown by a callback') return;
  process.stderr.write(`${error.stack}\n`);
  process.exit(9);
});

if (isMainThread) {
  const [, , seed = '1', rounds = '1', folder = '.'] = process.argv;
  await new Calls(Number(seed), folder, Number(seed) % 2 === 0).run(Number(rounds));
  process.exit(0);
} else {
  const { seed, rounds, folder, done } = workerData as WorkerData;
  const calls = new Calls(seed, folder, seed % 2 === 0);
  for (let round = 0; round < rounds; round++) {
    await calls.run(1);
    Atomics.add(done, 0, 1);
    Atomics.notify(done, 0);
  }
  process.exit(0);
}
