/**
 * A client that knows what it has written, for tests that move what is served.
 *
 * Invariants
 *  - Every byte that it reads is the one that it wrote last; every request is answered once, without an error.
 *  - Its part of the volume is its own, and holds zeros at first. What it does follows from a seed.
 */
import assert from 'node:assert/strict';
import { CMD, request, type WireClient } from '../nbd/wire.ts';

export const BLOCK = 4096;

/** Numbers from a seed, below `most`. */
export function numbers(seed: number): (most: number) => number {
  let state = seed >>> 0;
  return (most) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * most);
  };
}

/** Writes, reads and flushes a part of the volume at random, many at a time, and verifies every answer. */
export async function verified(
  client: WireClient,
  next: (most: number) => number,
  part: { readonly offset: number; readonly blocks: number },
  isEnough: () => boolean,
): Promise<number> {
  const model = Buffer.alloc(part.blocks * BLOCK);
  let commands = 0;
  while (!isEnough()) {
    const expected = new Map<bigint, Buffer>();
    const pieces: Buffer[] = [];
    for (let block = next(8); block < part.blocks; block += 1 + next(12)) {
      const at = block * BLOCK;
      const length = Math.min(1 + next(3 * BLOCK), model.length - at);
      const cookie = BigInt(++commands);
      const offset = part.offset + at;
      if (next(2) === 0) {
        const payload = Buffer.alloc(length, `${commands} `);
        payload.copy(model, at);
        pieces.push(request({ type: CMD.write, cookie, offset, payload }));
        expected.set(cookie, Buffer.alloc(0));
      } else {
        pieces.push(request({ type: CMD.read, cookie, offset, length }));
        expected.set(cookie, Buffer.from(model.subarray(at, at + length)));
      }
      block += 3;
    }
    const bytes = Buffer.concat(pieces);
    const cut = next(bytes.length);
    client.send(bytes.subarray(0, cut));
    await new Promise((resolve) => setImmediate(resolve));
    client.send(bytes.subarray(cut));
    while (expected.size > 0) {
      const header = await client.take(16);
      const cookie = header.readBigUInt64BE(8);
      const data = expected.get(cookie);
      assert.ok(data !== undefined && header.readUInt32BE(4) === 0, `an answer to ${cookie}`);
      assert.ok((await client.take(data.length)).equals(data), `data of ${cookie}`);
      expected.delete(cookie);
    }
  }
  return commands;
}
