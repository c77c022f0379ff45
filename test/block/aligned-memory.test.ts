/** Aligned memory: sizes, the bound, what is given out when it is nearly used up, and who waits for more. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { AlignedMemory, type AlignedPiece, SLAB_BYTES } from '../../src/block/aligned-memory.ts';

const never = (): void => assert.fail('nobody waits');

describe('aligned memory', () => {
  test('gives the smallest size that fits, at multiples of it', () => {
    const memory = new AlignedMemory();
    for (const [asked, given] of [
      [1, 4096],
      [4096, 4096],
      [4097, 65_536],
      [65_537, SLAB_BYTES],
      [2 ** 26, SLAB_BYTES],
    ] as const) {
      const piece = memory.acquire(asked);
      assert.deepEqual([piece.bytes, piece.at % piece.bytes], [given, 0]);
      assert(piece.at + piece.bytes <= piece.slab.length);
      memory.release(piece);
    }
    assert.equal(memory.takenBytes, 3 * SLAB_BYTES);
    assert.equal(memory.outstanding, 0);
  });

  test('gives what there is when no more may be taken, no piece twice, and tells who waits', async () => {
    const memory = new AlignedMemory(2 * SLAB_BYTES);
    const small = memory.acquire(100);
    const large = memory.acquire(SLAB_BYTES);
    const others: AlignedPiece[] = [];
    while (memory.hasRoom(() => {})) others.push(memory.acquire(SLAB_BYTES));
    assert.equal(memory.takenBytes, 2 * SLAB_BYTES);
    assert.deepEqual(new Set(others.map(({ bytes }) => bytes)), new Set([4096]));
    const places = new Set([small, ...others].map(({ at }) => at));
    assert.equal(places.size, SLAB_BYTES / 4096);
    assert.throws(() => memory.acquire(1), { code: 'ERR_ASSERTION' });
    const told = new Promise<void>((resolve) => {
      assert.equal(memory.hasRoom(resolve), false);
    });
    memory.release(large);
    await told;
    assert(memory.hasRoom(never));
    // A larger piece for a small request, as there is no other.
    assert.equal(memory.acquire(1).bytes, SLAB_BYTES);
  });
});
