/** The table of exceptions against a plain Map, and what it takes of memory. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { ExceptionTable } from '../../src/dm/snapshot/exception-table.ts';

/** What `find` must answer. */
function expected(model: ReadonlyMap<number, number>, chunk: number): { mapped: boolean; newChunk: number } {
  const newChunk = model.get(chunk);
  return { mapped: newChunk !== undefined, newChunk: newChunk ?? -1 };
}

function check(table: ExceptionTable, model: ReadonlyMap<number, number>, chunk: number): void {
  table.find(chunk);
  const { mapped, newChunk } = expected(model, chunk);
  assert.equal(table.mapped, mapped, `chunk ${chunk}`);
  if (mapped) assert.equal(table.newChunk, newChunk);
  assert(table.run >= 1);
  const run = Math.min(table.run, 300);
  for (let i = 1; i < run; i++) {
    const other = expected(model, chunk + i);
    assert.equal(other.mapped, mapped, `chunk ${chunk} and the ${i}th after it`);
    if (mapped) assert.equal(other.newChunk, newChunk + i);
  }
  if (!mapped && table.run !== Infinity) assert(model.has(chunk + table.run));
}

describe('the exception table', () => {
  const chunk = fc.oneof(
    fc.nat({ max: 60 }),
    fc.nat({ max: 3000 }),
    fc.nat({ max: 100 }).map((n) => 2 ** 39 + n),
  );
  const step = fc.record({
    remove: fc.boolean(),
    chunk,
    count: fc.integer({ min: 1, max: 40 }),
    /** New chunks descend, follow, or jump. */
    by: fc.constantFrom(1, 1, 1, -1, 2),
  });

  test('agrees with a map', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 200 }), (steps) => {
        const table = new ExceptionTable();
        const model = new Map<number, number>();
        let next = 2;
        for (const { remove, chunk: first, count, by } of steps) {
          for (let i = 0; i < count; i++) {
            if (remove) model.delete(first + i);
            else {
              const newChunk = by === 1 ? next + i : 10_000_000 + next + i * by;
              assert.equal(table.add(first + i, newChunk), !model.has(first + i));
              if (!model.has(first + i)) model.set(first + i, newChunk);
            }
          }
          if (remove) table.remove(first, count);
          next += count;
          assert.equal(table.size, model.size);
          for (const near of [first - 1, first, first + count - 1, first + count])
            if (near >= 0) check(table, model, near);
        }
        for (let at = 0; at < 3100; at += 7) check(table, model, at);
        const listed = new Map<number, number>();
        let last = -1;
        table.forEach((oldChunk, newChunk, count) => {
          assert(oldChunk > last);
          for (let i = 0; i < count; i++) listed.set(oldChunk + i, newChunk + i);
          last = oldChunk + count - 1;
        });
        assert.deepEqual(listed, new Map([...model].sort(([a], [b]) => a - b)));
      }),
      { numRuns: 300 },
    );
  });

  test('keeps chunks below 2^40 apart', () => {
    const table = new ExceptionTable();
    const largest = 2 ** 40 - 1;
    for (const at of [0, 2 ** 32 - 1, 2 ** 32, largest]) assert(table.add(at, largest - at));
    for (const at of [0, 2 ** 32 - 1, 2 ** 32, largest]) {
      table.find(at);
      assert.deepEqual([table.mapped, table.newChunk], [true, largest - at]);
    }
    assert.throws(() => table.add(2 ** 40, 2));
  });

  test('joins what follows each other, up to 65536 chunks and beyond', () => {
    const table = new ExceptionTable();
    for (let i = 0; i < 200_000; i++) table.add(i, i + 2);
    assert.equal(table.size, 200_000);
    let entries = 0;
    table.forEach(() => entries++);
    assert.equal(entries, 4);
    table.remove(1000, 198_000);
    check(table, new Map([[999, 1001]]), 999);
    assert.equal(table.size, 2000);
  });

  test('takes at most 24 bytes for an exception, in random, sorted and interleaved order', () => {
    const count = 200_000;
    const orders: readonly (readonly [string, (i: number) => number])[] = [
      ['random', (i) => (i * 2_654_435_761) % 2 ** 32],
      ['every second chunk', (i) => i * 2],
      ['backwards', (i) => (count - i) * 2],
      ['two streams', (i) => (i % 2) * 2 ** 30 + i],
    ];
    for (const [name, chunkOf] of orders) {
      const table = new ExceptionTable();
      for (let i = 0; i < count; i++) assert(table.add(chunkOf(i), 2 + i * 3));
      const bytes = table.memoryBytes / count;
      assert(bytes <= 24, `${name}: ${bytes} bytes`);
    }
  });
});
