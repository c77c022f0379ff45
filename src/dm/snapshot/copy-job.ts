/**
 * Fills consecutive chunks of a COW device: with the origin's content, or with what a write of whole chunks carries.
 *
 *     borrow a buffer → read the origin → write the COW device → (again for the next part) → done
 *
 * Invariants
 *  - A job is one record with one request; it is pooled by the snapshot and tells it once that it has ended.
 *  - The last chunk of an origin may be short: only what the origin has is copied.
 */
import type { BlockDevice } from '../../block/device.ts';
import { IoRequest, Op, RequestFlag, type RequestOwner } from '../../block/request.ts';
import { type Borrower, copyBuffers, MAX_COPY_BYTES } from './copy-buffers.ts';
import type { Pending } from './pending.ts';

export interface JobOwner {
  /** The chunks are on the COW device, or `job.error` says why not. */
  copied(job: CopyJob): void;
}

export class CopyJob implements RequestOwner, Borrower {
  /** The pendings of the chunks: `count` of them in a row. */
  first: Pending | null = null;
  count = 0;
  error = 0;
  nextBorrower: Borrower | null = null;
  nextFree: CopyJob | null = null;
  readonly #owner: JobOwner;
  readonly #io = new IoRequest();
  #origin: BlockDevice | null = null;
  #cow: BlockDevice | null = null;
  #from = 0;
  #to = 0;
  #left = 0;
  #buffer: Buffer | null = null;

  constructor(owner: JobOwner) {
    this.#owner = owner;
    this.#io.owner = this;
  }

  get wants(): number {
    return Math.min(this.#left, MAX_COPY_BYTES);
  }

  /** Copies `length` bytes from the origin's byte `from` to the COW device's byte `to`. */
  copy(origin: BlockDevice, cow: BlockDevice, from: number, to: number, length: number): void {
    this.error = 0;
    this.#origin = origin;
    this.#cow = cow;
    this.#from = from;
    this.#to = to;
    this.#left = length;
    copyBuffers.borrow(this);
  }

  /** Writes (or zeroes) what a piece of a request carries for whole chunks to the COW device's byte `to`. */
  fill(piece: IoRequest, cow: BlockDevice, to: number): void {
    this.error = 0;
    this.#left = piece.length;
    this.#cow = cow;
    const io = this.#io;
    io.op = piece.op;
    // The commit that follows makes it durable.
    io.flags = piece.flags & RequestFlag.noUnmap;
    io.offset = to;
    io.length = piece.length;
    io.buffer = piece.buffer;
    io.bufferOffset = piece.bufferOffset;
    cow.submit(io);
  }

  lend(buffer: Buffer): void {
    this.#buffer = buffer;
    this.#read(buffer);
  }

  ioDone(io: IoRequest): void {
    const buffer = this.#buffer;
    if (io.error !== 0 || buffer === null) {
      this.#end(io.error);
      return;
    }
    const { length } = io;
    if (io.op === Op.read) {
      io.op = Op.write;
      io.offset = this.#to;
      this.#cow!.submit(io);
      return;
    }
    this.#from += length;
    this.#to += length;
    this.#left -= length;
    if (this.#left > 0) this.#read(buffer);
    else this.#end(0);
  }

  #read(buffer: Buffer): void {
    const io = this.#io;
    io.op = Op.read;
    io.flags = 0;
    io.offset = this.#from;
    io.length = Math.min(this.#left, MAX_COPY_BYTES);
    io.buffer = buffer;
    io.bufferOffset = 0;
    this.#origin!.submit(io);
  }

  #end(errno: number): void {
    const buffer = this.#buffer;
    this.#io.reset();
    this.#io.owner = this;
    this.#buffer = null;
    this.#origin = null;
    this.#cow = null;
    this.error = errno;
    if (buffer !== null) copyBuffers.giveBack(buffer);
    this.#owner.copied(this);
  }
}
