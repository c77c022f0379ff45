/**
 * What a client sends: requests cut out of the stream, and the payloads behind them, each gathered where it is to stay.
 *
 *     compact request    28 bytes       extended request    32 bytes       then `command.payload` bytes that belong to it
 *
 * Invariants
 *  - Bytes may arrive split anywhere. At most one command's payload is being received.
 *  - A payload stays in place, where it was received (inlet.ts); that of a long WRITE goes into a buffer of its own that the rest is read
 *    into directly. The payload of a refused command is read and dropped.
 *  - Accounting is not done here: who accepts a command charges for it.
 */
import type { BufferPool } from './buffer-pool.ts';
import type { Command } from './command.ts';
import { EXTENDED_REQUEST_BYTES, NbdErrno, REQUEST_BYTES } from './constants.ts';
import { Inlet } from './inlet.ts';

/** Longer payloads that are not all here get a buffer of their own. */
const MAX_IN_PLACE_BYTES = 64 * 1024;
/** Room for what follows a long payload, which may be the next one: little, so that little of that is copied. */
const AFTER_LONG_BYTES = 4096;

export class Intake {
  readonly #pool: BufferPool;
  readonly #inlet: Inlet;
  readonly #extended: boolean;
  readonly #requestBytes: number;
  /** Its payload is arriving: in the inlet, or `progress` bytes of it in its own buffer, or dropped if it is refused. */
  #receiving: Command | null = null;
  /** Whether what is read next goes straight into the buffer of the command that is being received. */
  #direct = false;
  #afterLong = false;

  constructor(pool: BufferPool, extended: boolean) {
    this.#pool = pool;
    this.#inlet = new Inlet(pool);
    this.#extended = extended;
    this.#requestBytes = extended ? EXTENDED_REQUEST_BYTES : REQUEST_BYTES;
  }

  get receiving(): Command | null {
    return this.#receiving;
  }

  /** Room for the client's next bytes; while `holding` a command only for a little. */
  space(holding: boolean): Buffer {
    const command = this.#receiving;
    this.#direct = command !== null && command.pooled;
    if (command !== null && this.#direct) return command.buffer.subarray(command.progress, command.payload);
    if (holding) return this.#inlet.space(1, AFTER_LONG_BYTES);
    const inPlace = command !== null && command.refusal === NbdErrno.ok;
    const missing = (inPlace ? command.payload : this.#requestBytes) - this.#inlet.available;
    return this.#afterLong
      ? this.#inlet.space(Math.max(missing, 1), AFTER_LONG_BYTES)
      : this.#inlet.roomySpace(missing);
  }

  /** So many bytes have been put into what `space` gave. */
  received(bytes: number): void {
    if (!this.#direct) {
      this.#inlet.received(bytes);
    } else if (this.#receiving !== null) {
      this.#receiving.progress += bytes;
      this.#direct = false;
    }
  }

  /** Takes the bytes of `chunk` from `at` on, as far as there is room; gives how many. While `holding`, all of them. */
  copy(chunk: Buffer, at: number, holding: boolean): number {
    const space = holding ? this.#inlet.roomySpace(chunk.length - at) : this.space(false);
    const bytes = Math.min(space.length, chunk.length - at);
    chunk.copy(space, 0, at, at + bytes);
    if (holding) this.#inlet.received(bytes);
    else this.received(bytes);
    return bytes;
  }

  /** Whether a whole request is here, and no payload is being received. */
  get hasRequest(): boolean {
    return this.#receiving === null && this.#inlet.available >= this.#requestBytes;
  }

  /** Takes the next request; false if the bytes are none. */
  takeRequest(command: Command): boolean {
    const inlet = this.#inlet;
    const { at } = inlet;
    inlet.at += this.#requestBytes;
    return this.#extended ? command.decodeExtended(inlet.buffer, at) : command.decode(inlet.buffer, at);
  }

  /** The magic of the request that was taken last, in hexadecimal digits. */
  get lastMagic(): string {
    return this.#inlet.buffer.readUInt32BE(this.#inlet.at - this.#requestBytes).toString(16);
  }

  /** Takes the command's payload, or drops it, if the command is refused. False: it is not all here, and is received from now on. */
  take(command: Command): boolean {
    const { payload } = command;
    if (command.refusal === NbdErrno.ok) {
      this.#afterLong = payload > MAX_IN_PLACE_BYTES;
      if (this.#inlet.available >= payload) {
        this.#takeInPlace(command, payload);
        return true;
      }
      if (this.#afterLong) {
        command.buffer = this.#pool.acquire(payload);
        command.pooled = true;
      }
    }
    this.#receiving = command;
    return false;
  }

  #takeInPlace(command: Command, payload: number): void {
    const inlet = this.#inlet;
    command.buffer = inlet.buffer;
    command.bufferOffset = inlet.at;
    command.received = inlet.retain();
    inlet.at += payload;
  }

  /** The command whose payload is now all here, or dropped; null: it is not, or none is being received. */
  complete(): Command | null {
    const command = this.#receiving;
    if (command === null) return null;
    const inlet = this.#inlet;
    if (!command.pooled && command.refusal === NbdErrno.ok) {
      if (inlet.available < command.payload) return null;
      this.#takeInPlace(command, command.payload);
    } else {
      const count = Math.min(command.payload - command.progress, inlet.available);
      if (command.pooled) inlet.buffer.copy(command.buffer, command.progress, inlet.at, inlet.at + count);
      command.progress += count;
      inlet.at += count;
      if (command.progress < command.payload) return null;
      command.progress = 0;
    }
    this.#receiving = null;
    return command;
  }

  /**
   * What has arrived and was not taken, as it came: whoever goes on with the connection gets it first. `held`: the request that was taken
   * last, if it was not accepted. Null: nobody can go on, as the payload of a refused command was partly dropped. Nothing may be received
   * afterwards.
   */
  unparsed(held: Command | null): Buffer | null {
    const inlet = this.#inlet;
    const rest = inlet.buffer.subarray(inlet.at, inlet.end);
    const command = held ?? this.#receiving;
    if (command === null) return Buffer.from(rest);
    if (held === null && command.refusal !== NbdErrno.ok) return null;
    const request = command.encode(this.#extended);
    const payloadBytes = command.pooled ? command.progress : 0;
    const all = Buffer.alloc(request.length + payloadBytes + rest.length);
    request.copy(all);
    command.buffer.copy(all, request.length, 0, payloadBytes);
    rest.copy(all, request.length + payloadBytes);
    return all;
  }

  /** Forgets what is not parsed; gives the command whose payload will not come. */
  clear(): Command | null {
    const command = this.#receiving;
    // The system may still put bytes into it.
    if (command !== null && this.#direct) this.#pool.discard();
    else if (command !== null && command.pooled) this.#pool.release(command.buffer);
    this.#direct = false;
    this.#receiving = null;
    this.#inlet.clear();
    return command;
  }

  /** Nothing will be read any more. */
  dispose(): void {
    this.#inlet.dispose();
  }
}
