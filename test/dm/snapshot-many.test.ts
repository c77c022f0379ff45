/** 255 snapshots of one origin, as many as LVM2 has: each keeps what the origin was when it was made, and an origin's write costs them all little. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MemoryDevice } from '../../src/block/memory.ts';
import { Op } from '../../src/block/request.ts';
import { pattern, performOk } from '../block/harness.ts';
import { contentOf, Family, same } from './snapshot-harness.ts';

const SNAPSHOTS = 255;
const CHUNK = 4096;
const CHUNKS = 32;
const SIZE = CHUNKS * CHUNK;

test('255 snapshots of one origin', async () => {
  const family = new Family(new MemoryDevice({ name: 'real', sizeBytes: SIZE }));
  const origin = pattern(SIZE, 1);
  await performOk(family.origin, { op: Op.write, buffer: origin });
  const states: Buffer[] = [];
  for (let i = 0; i < SNAPSHOTS; i++) {
    const cow = new MemoryDevice({ name: `cow${i}`, sizeBytes: SIZE + 16 * CHUNK });
    await family.snapshot({ name: `s${i}`, cow, chunkSize: i % 3 === 0 ? 16 : 8 });
    states.push(Buffer.from(origin));
    // Each write is copied for every snapshot that there is and that has not copied this chunk.
    const offset = ((i * 7) % CHUNKS) * CHUNK + (i % CHUNK);
    const buffer = Buffer.alloc(Math.min(3000, SIZE - offset), i);
    await performOk(family.origin, { op: Op.write, offset, buffer });
    buffer.copy(origin, offset);
  }
  assert.equal(family.origin.status().lines[0]?.details['snapshots'], SNAPSHOTS);
  same(await contentOf(family.origin), origin, 'the origin');
  for (const [i, state] of states.entries()) same(await contentOf(family.volume(`s${i}`)), state, `snapshot ${i}`);
  // All of it at once, and one that goes in the middle.
  await family.remove('s100');
  const last = pattern(SIZE, 2);
  await performOk(family.origin, { op: Op.write, buffer: last });
  same(await contentOf(family.origin), last, 'the origin');
  for (const [i, state] of states.entries()) {
    if (i !== 100) same(await contentOf(family.volume(`s${i}`)), state, `snapshot ${i} at the end`);
  }
  const bytes = [...family.snapshots.values()].map(({ volume }) => volume.status().lines[0]?.details['exceptionBytes']);
  // A table of a few exceptions takes one slab.
  assert(Math.max(...bytes.map(Number)) < 64 * 1024);
  await family.close();
});
