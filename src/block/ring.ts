/**
 * The io_uring of this thread, typed: requests are pushed into memory shared with native/ring.c and reach the kernel together
 * at the end of the event-loop turn; completions come back in one call.
 *
 * Invariants
 *  - One ring for each thread of JavaScript, opened at first use; it keeps nothing alive but what is in flight.
 *  - An owner is told once of each request that `push` took, never inside `push`.
 *  - A buffer is pinned (kept from the garbage collector, its memory known to the ring) while requests use it. Small ones stay
 *    pinned for a while, because pooled buffers and chunks of a socket come again: at most CACHED_REGIONS of CACHED_BYTES.
 *  - The ring has its own duplicate of each file, so that a descriptor closed too early can't be somebody else's.
 */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { AddonError, ringBinding, type RingBinding } from '../native/addon.ts';

/** Operations of native/ring.c. */
const READ = 0;
const WRITE = 1;
const FDATASYNC = 2;
const FALLOCATE = 3;

/** Requests in flight; a power of two. */
const SLOTS = 4096;
/** What is tried where that many are too much for the limit of locked memory (kernels before 5.12). */
const FEWER_SLOTS = 256;
const CACHED_REGIONS = 32;
/** Slabs of aligned memory, and pooled payloads of 1 MiB with their reply's header, are among them. */
const CACHED_BYTES = 2 ** 20 + 4096;

/** Layout of the control memory: words of the header, bytes and words of a submission. */
const TAIL = 0;
const ENDED = 2;
const REFUSED = 3;
const HEADER_BYTES = 64;
const SUBMISSION_BYTES = 40;
const SUBMISSION_DOUBLES = SUBMISSION_BYTES / 8;
const SUBMISSION_WORDS = SUBMISSION_BYTES / 4;

const NO_REGION = -1;
const NO_BUFFER: Buffer = Buffer.alloc(0);

/** Who is told that a request has ended. */
export interface RingOwner {
  /** The bytes moved (0 for what moves none), or minus an errno. */
  ringDone(result: number): void;
}

/** Who wants to know that a full ring has room again. */
export interface RingWaiter {
  ringHasRoom(): void;
}

export class Ring {
  /** Requests that can be in flight together. */
  readonly slots: number;
  readonly #binding: RingBinding;
  readonly #header: Uint32Array;
  readonly #doubles: Float64Array;
  readonly #words: Uint32Array;
  readonly #ended: Int32Array;
  readonly #owners: (RingOwner | null)[];
  readonly #regionOfSlot: Int32Array;
  /** A stack of free slots. */
  readonly #free: Int32Array;
  #freeCount: number;
  /** By region: requests that use it; whether it stays pinned without them. */
  readonly #uses: Int32Array;
  readonly #cached: Uint8Array;
  readonly #cachedBuffers: Buffer[] = [];
  readonly #cachedRegions: number[] = [];
  #hand = 0;
  #lastBuffer: Buffer = NO_BUFFER;
  #lastRegion = NO_REGION;
  readonly #waiters: RingWaiter[] = [];
  readonly #atEnd: (() => void)[] = [];
  #draining = false;

  /** `memory` is what the binding opened; whoever opened it calls `drain`. */
  constructor(slots: number, memory: ArrayBuffer, binding: RingBinding) {
    const endedAt = HEADER_BYTES + slots * SUBMISSION_BYTES;
    this.slots = slots;
    this.#binding = binding;
    this.#header = new Uint32Array(memory, 0, HEADER_BYTES / 4);
    this.#doubles = new Float64Array(memory, HEADER_BYTES, slots * SUBMISSION_DOUBLES);
    this.#words = new Uint32Array(memory, HEADER_BYTES, slots * SUBMISSION_WORDS);
    this.#ended = new Int32Array(memory, endedAt, slots * 2);
    this.#owners = Array.from({ length: slots }, () => null);
    this.#regionOfSlot = new Int32Array(slots);
    this.#free = Int32Array.from({ length: slots }, (_, i) => slots - 1 - i);
    this.#freeCount = slots;
    this.#uses = new Int32Array(slots + CACHED_REGIONS + 1);
    this.#cached = new Uint8Array(slots + CACHED_REGIONS + 1);
  }

  /** Whether the next request has to wait (see `waitForRoom`). */
  get full(): boolean {
    return this.#freeCount === 0;
  }

  get inFlight(): number {
    return this.slots - this.#freeCount;
  }

  /** Whether completions are being handed out. */
  get draining(): boolean {
    return this.#draining;
  }

  /** Has the waiter called once, after some request has ended. */
  waitForRoom(waiter: RingWaiter): void {
    this.#waiters.push(waiter);
  }

  /** Runs `callback` when the completions of this turn have been handed out; only while `draining`. */
  afterDrain(callback: () => void): void {
    assert(this.#draining);
    this.#atEnd.push(callback);
  }

  /** Duplicates a descriptor into the ring: the number to name it by, or minus an errno. */
  addFile(fd: number): number {
    return this.#binding.ringAddFile(fd);
  }

  /** Lets go of a file of which nothing is in flight. */
  removeFile(file: number): void {
    const errno = this.#binding.ringRemoveFile(file);
    assert(errno === 0, `a file of the ring that can't be removed: errno ${errno}`);
  }

  read(owner: RingOwner, file: number, buffer: Buffer, at: number, length: number, position: number): void {
    this.#push(owner, READ, file, this.#regionOf(buffer), at, length, position, 0);
  }

  /** With `sync` the data is durable when it ends. */
  write(
    owner: RingOwner,
    file: number,
    buffer: Buffer,
    at: number,
    length: number,
    position: number,
    sync: boolean,
  ): void {
    this.#push(owner, WRITE, file, this.#regionOf(buffer), at, length, position, sync ? 1 : 0);
  }

  fdatasync(owner: RingOwner, file: number): void {
    this.#push(owner, FDATASYNC, file, NO_REGION, 0, 0, 0, 0);
  }

  fallocate(owner: RingOwner, file: number, mode: number, position: number, length: number): void {
    this.#push(owner, FALLOCATE, file, NO_REGION, 0, length, position, mode);
  }

  /** Waits for what is in flight, whose owners are not told, and ends the ring. */
  close(): void {
    this.#binding.ringClose();
  }

  #push(
    owner: RingOwner,
    op: number,
    file: number,
    region: number,
    at: number,
    length: number,
    position: number,
    flags: number,
  ): void {
    assert(this.#freeCount > 0, 'a request for a ring that is full');
    if (this.#freeCount === this.slots) this.#binding.ringHold(true);
    const slot = this.#free[--this.#freeCount]!;
    this.#owners[slot] = owner;
    this.#regionOfSlot[slot] = region;
    if (region !== NO_REGION) this.#uses[region]!++;
    const tail = this.#header[TAIL]!;
    const index = tail & (this.slots - 1);
    const double = index * SUBMISSION_DOUBLES;
    const word = index * SUBMISSION_WORDS;
    this.#doubles[double] = position;
    this.#doubles[double + 1] = length;
    this.#words[word + 4] = op;
    this.#words[word + 5] = file;
    this.#words[word + 6] = region;
    this.#words[word + 7] = at;
    this.#words[word + 8] = slot;
    this.#words[word + 9] = flags;
    this.#header[TAIL] = tail + 1;
  }

  #regionOf(buffer: Buffer): number {
    // Memory that was detached has no length, and the binding refuses it; a region that was made of it is not used again.
    if (buffer.length === 0) return this.#pin(buffer);
    if (buffer === this.#lastBuffer) return this.#lastRegion;
    const index = this.#cachedBuffers.indexOf(buffer);
    const region = index < 0 ? this.#pin(buffer) : this.#cachedRegions[index]!;
    this.#lastBuffer = buffer;
    this.#lastRegion = region;
    return region;
  }

  #pin(buffer: Buffer): number {
    const region = this.#binding.ringPin(buffer);
    assert(region >= 0, `memory that can't be pinned: errno ${-region}`);
    if (buffer.length > CACHED_BYTES) return region;
    if (this.#cachedBuffers.length === CACHED_REGIONS) {
      const dropped = this.#cachedRegions[this.#hand]!;
      this.#cached[dropped] = 0;
      this.#unpinIfUnused(dropped);
    }
    this.#cachedBuffers[this.#hand] = buffer;
    this.#cachedRegions[this.#hand] = region;
    this.#cached[region] = 1;
    this.#hand = (this.#hand + 1) % CACHED_REGIONS;
    return region;
  }

  #unpinIfUnused(region: number): void {
    if (this.#uses[region] !== 0 || this.#cached[region] !== 0) return;
    if (region === this.#lastRegion) {
      this.#lastBuffer = NO_BUFFER;
      this.#lastRegion = NO_REGION;
    }
    const errno = this.#binding.ringUnpin(region);
    assert(errno === 0, `memory that can't be unpinned: errno ${errno}`);
  }

  /** Tells the owners of what has ended: the binding's callback. */
  drain(): void {
    const count = this.#header[ENDED]!;
    assert(this.#header[REFUSED] === 0, 'the ring was given something that is not a request');
    this.#draining = true;
    for (let i = 0; i < count; i++) {
      const slot = this.#ended[2 * i]!;
      const result = this.#ended[2 * i + 1]!;
      const owner = this.#owners[slot]!;
      const region = this.#regionOfSlot[slot]!;
      this.#owners[slot] = null;
      this.#free[this.#freeCount++] = slot;
      if (region !== NO_REGION && --this.#uses[region]! === 0) this.#unpinIfUnused(region);
      owner.ringDone(result);
    }
    // Those who wait again wait for the next time.
    for (let waiting = this.#waiters.length; waiting > 0; waiting--) this.#waiters.shift()!.ringHasRoom();
    const atEnd = this.#atEnd.length;
    for (let i = 0; i < atEnd; i++) this.#atEnd[i]!();
    // What the callbacks brought about is for the next turn.
    for (let i = atEnd; i < this.#atEnd.length; i++) setImmediate(this.#atEnd[i]!);
    // Setting the length would give up the array's memory in each turn.
    while (this.#atEnd.length > 0) this.#atEnd.pop();
    this.#draining = false;
    if (this.#freeCount === this.slots) this.#binding.ringHold(false);
  }
}

const { ENOMEM, ENOSYS } = constants.errno;
let shared: Ring | number | undefined;

/**
 * This thread's ring; or a positive errno when there can't be one: EPERM (forbidden by sysctl or seccomp), ENOSYS (a kernel before
 * 5.6, or no addon), ENOMEM.
 */
export function openRing(): Ring | number {
  shared ??= tryToOpen();
  return shared;
}

/**
 * How long this thread's loop looks for what comes next before it sleeps, where that has been worth it lately: microseconds, at most
 * 1000; 0: never, as it is by default. Without a ring it always sleeps at once.
 */
export function lookBeforeSleep(microseconds: number): void {
  if (openRing() instanceof Ring) ringBinding().ringLook(microseconds);
}

/** The ring, if it has been opened. */
export function currentRing(): Ring | null {
  return shared instanceof Ring ? shared : null;
}

function tryToOpen(): Ring | number {
  let binding: RingBinding;
  try {
    binding = ringBinding();
  } catch (error) {
    if (error instanceof AddonError) return ENOSYS;
    throw error;
  }
  const first = openWith(binding, SLOTS);
  return first === ENOMEM ? openWith(binding, FEWER_SLOTS) : first;
}

function openWith(binding: RingBinding, slots: number): Ring | number {
  let ring: Ring | null = null;
  const memory = binding.ringOpen(slots, () => {
    ring?.drain();
  });
  if (typeof memory === 'number') return memory;
  ring = new Ring(slots, memory, binding);
  return ring;
}
