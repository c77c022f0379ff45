/**
 * What has come from a peer and was not looked at yet.
 *
 * Invariant: bytes are given out in their order, once, and only in pieces that are all here.
 */

/** Bytes as they come, given out in the pieces that are asked for. */
export class Incoming {
  #chunks: Buffer[] = [];
  #bytes = 0;

  get bytes(): number {
    return this.#bytes;
  }

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
  }

  /** The next bytes without taking them; null: they are not all here. */
  peek(length: number): Buffer | null {
    if (this.#bytes < length) return null;
    if (this.#chunks[0] === undefined || this.#chunks[0].length < length) this.#chunks = [Buffer.concat(this.#chunks)];
    return (this.#chunks[0] ?? Buffer.alloc(0)).subarray(0, length);
  }

  take(length: number): Buffer | null {
    const bytes = this.peek(length);
    const [first] = this.#chunks;
    if (bytes === null || first === undefined) return bytes;
    if (first.length === length) this.#chunks.shift();
    else this.#chunks[0] = first.subarray(length);
    this.#bytes -= length;
    return bytes;
  }
}
