/**
 * What an engine is to the devices that use it (system-device.ts): the calls it makes, and the slots they are made for.
 *
 * Invariants
 *  - Each call reports to the slot's owner, or to `done`, later and exactly once.
 *  - A slot has at most one call under way.
 */
import type { AlignedPiece } from './aligned-memory.ts';
import type { IoRequest } from './request.ts';

/** Where the calls of a slot report to. */
export interface SlotOwner {
  /** A read or write has moved `bytes`, or failed. */
  moved(slot: Slot, errno: number, bytes: number): void;
  /** A fallocate or discard has ended. */
  ranged(slot: Slot, errno: number): void;
}

/** A request being carried out, piece by piece: [position, pieceEnd) is under way, [pieceEnd, end) is still to do. */
export class Slot {
  readonly owner: SlotOwner;
  request: IoRequest | null = null;
  position = 0;
  pieceEnd = 0;
  end = 0;
  /** How the piece under way is zeroed: a mode of fallocate, or 0 for a write. */
  mode = 0;
  /** Aligned memory of the piece under way. */
  bounce: AlignedPiece | null = null;
  /** What it writes is durable when it ends. */
  durable = false;
  /** The errno of a durable write that failed, while its bytes are written once more. */
  failed = 0;

  constructor(owner: SlotOwner) {
    this.owner = owner;
  }
}

/** How an engine makes calls. */
export interface EngineCalls<S extends Slot> {
  /** Requests of one device under way at once. May change; is asked whenever one starts. */
  readonly slots: number;
  /** Whether calls of one turn are gathered by the engine itself. */
  readonly gathers: boolean;
  /** Whether a write can be durable when it ends, and that is better than an fdatasync after it. */
  readonly durableWrites: boolean;
  newSlot(owner: SlotOwner): S;
  /** Whether a call can be made now; otherwise `again` is called when it might be. */
  hasRoom(again: () => void): boolean;
  /** Bytes moved at once without waiting, where the engine can do that; 0 otherwise. */
  readAtOnce(buffer: Buffer, at: number, bytes: number, position: number): number;
  read(slot: S, buffer: Buffer, at: number, bytes: number, position: number): void;
  write(slot: S, buffer: Buffer, at: number, bytes: number, position: number, durable: boolean): void;
  fdatasync(done: (errno: number) => void): void;
  fallocate(slot: S, mode: number, offset: number, bytes: number): void;
  blockDiscard(slot: S, offset: number, bytes: number): void;
  /** Lets go of what was taken for the device; nothing of it is under way. */
  close(): void;
}
