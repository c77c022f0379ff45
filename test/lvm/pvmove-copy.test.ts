/** What a pvmove without a daemon copies: the same bytes, with holes where the source has them, over whatever was there. */
import assert from 'node:assert/strict';
import { open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { MemoryDevice } from '../../src/block/memory.ts';
import { openBlockDevice } from '../../src/block/open.ts';
import { writeBytes } from '../../src/block/sync-io.ts';
import { copyExtents } from '../../src/lvm/pvmove/copy.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';

const MIB = 2 ** 20;
const KIB = 1024;

/** A file of holes, with data in some places. */
async function sparseFile(
  path: string,
  sizeBytes: number,
  data: readonly (readonly [number, number])[],
): Promise<void> {
  const file = await open(path, 'w');
  await file.truncate(sizeBytes);
  for (const [offset, length] of data) await file.write(Buffer.alloc(length, 0xa5), 0, length, offset);
  await file.sync();
  await file.close();
}

describe('copying extents', () => {
  test('a sparse image stays sparse, and what was there before is gone', () =>
    withTemporaryFolder(async (folder) => {
      const [source, destination] = [join(folder, 'source'), join(folder, 'destination')];
      const piece = fc.tuple(fc.nat({ max: 20 * 256 - 1 }), fc.integer({ min: 1, max: 200 }));
      await fc.assert(
        fc.asyncProperty(fc.array(piece, { maxLength: 6 }), fc.nat({ max: 7 }), async (pieces, shift) => {
          const data = pieces.map(([block, blocks]) => [block * 4 * KIB, blocks * 4 * KIB] as const);
          await sparseFile(source, 24 * MIB, data);
          await sparseFile(destination, 24 * MIB, [[0, 24 * MIB]]);
          const from = { device: await openBlockDevice(source, { readOnly: true }), offset: MIB };
          const to = { device: await openBlockDevice(destination), offset: MIB + shift * 4 * KIB };
          const length = 20 * MIB + 12 * KIB;
          let told = 0;
          await copyExtents({ from, to, length, onProgress: (bytes) => (told += bytes) });
          await from.device.close();
          await to.device.close();
          assert.equal(told, length);
          const [before, after] = [await readFile(source), await readFile(destination)];
          assert.ok(after.subarray(to.offset, to.offset + length).equals(before.subarray(MIB, MIB + length)));
          assert.ok(after.subarray(0, to.offset).every((byte) => byte === 0xa5));
          assert.ok(after.subarray(to.offset + length).every((byte) => byte === 0xa5));
          // What is outside, the data, and two pieces of 64 KiB around each run of it.
          const runs = data.reduce((sum, [, bytes]) => sum + bytes + 128 * KIB, 0);
          const { blocks } = await stat(destination);
          assert.ok(blocks * 512 <= 24 * MIB - length + runs + 256 * KIB, `${blocks * 512} bytes are allocated`);
        }),
        { numRuns: 6 },
      );
    }));

  test('what tells nothing of holes is copied as it is', async () => {
    const [source, destination] = [new MemoryDevice({ sizeBytes: 9 * MIB }), new MemoryDevice({ sizeBytes: 9 * MIB })];
    await writeBytes(source, 5 * MIB, Buffer.alloc(MIB, 7));
    await writeBytes(destination, 0, Buffer.alloc(9 * MIB, 9));
    const [from, to] = [source, destination].map((device) => ({ device, offset: 0 }));
    await copyExtents({ from: from!, to: to!, length: 9 * MIB, onProgress: () => undefined });
    assert.ok(destination.peek(0, 9 * MIB).equals(source.peek(0, 9 * MIB)));
  });
});
