/**
 * The transmission phase with extended headers (branch extension-ext-header of the protocol): 64-bit lengths both ways, payloads by flag, and
 * BLOCK_STATUS for some of the contexts.
 */
import assert from 'node:assert/strict';
import { randomFillSync } from 'node:crypto';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { MemoryDevice } from '../../src/block/memory.ts';
import { ALLOCATION } from './exports.ts';
import { Machine, type MachineOptions } from './machine.ts';
import { type Answer, CMD, EINVAL, ENOSPC, EPERM, everySplit, extendedRequest, FLAG, request } from './wire.ts';

const SIZE = 2 ** 20;
const CONTEXTS = [...ALLOCATION, { id: 2, name: 'x:y' }, { id: 3, name: 'x:z' }];
const features = { structuredReplies: true, extendedHeaders: true, contexts: CONTEXTS };

function machine(options: MachineOptions = {}): Machine {
  const made = new Machine({ features, ...options });
  randomFillSync(made.disk);
  return made;
}

/** Everything that a machine says to these requests, carried out at once. */
function said(requests: readonly Buffer[], options: MachineOptions = {}): Answer[] {
  const m = machine(options);
  m.feed(...requests);
  m.settle();
  const all = m.chunks('extended');
  assert.equal(m.transmission.bytesInFlight, 0);
  m.dispose();
  return all;
}

/** Context and extents of a BLOCK_STATUS_EXT chunk. */
function statusOf({ kind, data }: Answer): readonly [number, number[][]] {
  assert.equal(kind, 'statusExt');
  const count = data.readUInt32BE(4);
  assert.equal(data.length, 8 + 16 * count, 'the count is that of the extents');
  const extents = Array.from({ length: count }, (_, i) => [
    Number(data.readBigUInt64BE(8 + 16 * i)),
    Number(data.readBigUInt64BE(16 + 16 * i)),
  ]);
  return [data.readUInt32BE(0), extents];
}

/** The payload of a BLOCK_STATUS. */
function filter(length: number | bigint, ids: readonly number[]): Buffer {
  const bytes = Buffer.alloc(8 + 4 * ids.length);
  bytes.writeBigUInt64BE(BigInt(length), 0);
  ids.forEach((id, i) => bytes.writeUInt32BE(id, 8 + 4 * i));
  return bytes;
}

/** A device of so many bytes that nobody reads. */
function large(sizeBytes: number): MachineOptions {
  const device = new MemoryDevice({ sizeBytes: SIZE });
  const volume = {
    name: 'large',
    limits: { ...device.limits, sizeBytes },
    submit: () => assert.fail('the host has its own disk'),
    close: () => device.close(),
  };
  return { export: { volume } };
}

describe('replies', () => {
  test('every command gets chunks, with cookie and offset of the request', () => {
    const all = said([
      extendedRequest({ type: CMD.read, cookie: 2n ** 64n - 1n, offset: 4097, length: 1000 }),
      extendedRequest({ type: CMD.write, cookie: 2n, offset: 5, payload: Buffer.from('abc') }),
      extendedRequest({ type: CMD.flush, cookie: 3n, offset: 0 }),
      extendedRequest({ type: CMD.trim, cookie: 4n, offset: 512, length: 512 }),
      extendedRequest({ type: CMD.writeZeroes, cookie: 5n, length: 512, flags: FLAG.noHole | FLAG.fua }),
      extendedRequest({ type: CMD.cache, cookie: 6n, length: 512 }),
      extendedRequest({ type: CMD.read, cookie: 7n, offset: 9 }),
      extendedRequest({ type: CMD.read, cookie: 8n, offset: SIZE - 3, length: 3, flags: FLAG.df }),
    ]);
    assert.deepEqual(Object.fromEntries(all.map(({ cookie, kind, at, done }) => [String(cookie), [kind, at, done]])), {
      [String(2n ** 64n - 1n)]: ['data', 4097n, true],
      2: ['none', 5n, true],
      3: ['none', 0n, true],
      4: ['none', 512n, true],
      5: ['none', 0n, true],
      6: ['none', 0n, true],
      7: ['none', 9n, true],
      8: ['data', BigInt(SIZE - 3), true],
    });
    const read = all.find(({ cookie }) => cookie === 2n ** 64n - 1n);
    assert.deepEqual([read?.offset, read?.data.length], [4097, 1000]);
  });

  test('what was written is read', () => {
    const m = machine();
    m.feed(extendedRequest({ type: CMD.write, offset: 100, payload: Buffer.from('hello') }));
    m.settle();
    m.feed(extendedRequest({ type: CMD.read, offset: 100, length: 5 }));
    m.settle();
    assert.equal(m.chunks('extended')[1]?.data.toString(), 'hello');
    m.dispose();
  });

  test('errors echo the offset bit by bit, even one that is no exact number', () => {
    const offset = 2n ** 64n - 511n;
    const [answer] = said([extendedRequest({ type: CMD.read, offset, length: 512 })]);
    assert.deepEqual([answer?.kind, answer?.error, answer?.at], ['error', EINVAL, offset]);
  });
});

describe('lengths of 64 bits', () => {
  test('TRIM, WRITE_ZEROES, CACHE and BLOCK_STATUS of 5 TiB are one request', () => {
    const length = 5 * 2 ** 40;
    const m = machine(large(2 ** 43));
    m.feed(
      extendedRequest({ type: CMD.trim, offset: 7, length }),
      extendedRequest({ type: CMD.writeZeroes, length, cookie: 2n }),
      extendedRequest({ type: CMD.cache, length }),
      extendedRequest({ type: CMD.blockStatus, offset: 7, length }),
    );
    assert.deepEqual(m.seen, [
      `trim 7+${length} flags 0`,
      `writeZeroes 0+${length} flags 0`,
      `cache 0+${length} flags 0`,
      `blockStatus 7+${length} flags 0`,
    ]);
    m.turn();
    const status = m.chunks('extended').filter(({ kind }) => kind === 'statusExt');
    assert.deepEqual(status.map(statusOf), [
      [1, [[length, 0]]],
      [2, [[length, 0]]],
      [3, [[length, 0]]],
    ]);
    m.dispose();
  });

  test('past the end, by little or by 2^63, is an error and no wrap', () => {
    const rows = [
      [CMD.trim, 1, SIZE, EINVAL, SIZE],
      [CMD.writeZeroes, 0, 2n ** 63n, ENOSPC, SIZE],
      [CMD.blockStatus, 512, 2n ** 64n - 512n, EINVAL, SIZE],
      [CMD.cache, SIZE, 2n ** 32n, EINVAL, SIZE],
      [CMD.read, 0, 2n ** 32n + 1n, EINVAL, SIZE],
    ] as const;
    for (const [type, offset, length, error, at] of rows) {
      const [answer] = said([extendedRequest({ type, offset, length })]);
      assert.deepEqual([answer?.error, answer?.offset], [error, at], `command ${type}`);
    }
  });
});

describe('payloads', () => {
  test('a WRITE has its payload without the flag, too, as QEMU sends it', () => {
    const write = extendedRequest({ type: CMD.write, payload: Buffer.alloc(1000, 0x21), cookie: 1n });
    write.writeUInt16BE(0, 4);
    const [first, second] = said([write, extendedRequest({ type: CMD.flush, cookie: 2n })]);
    assert.deepEqual([first?.cookie, first?.kind], [1n, 'none']);
    assert.deepEqual([second?.cookie, second?.kind], [2n, 'none']);
  });

  for (const type of [CMD.read, CMD.flush, CMD.trim, CMD.cache, CMD.writeZeroes, 99]) {
    test(`command ${type} with a payload: it is consumed, then EINVAL`, () => {
      const [first, second] = said([
        extendedRequest({ type, offset: 3, payload: Buffer.alloc(100_000, 0x21), cookie: 1n }),
        extendedRequest({ type: CMD.flush, cookie: 2n }),
      ]);
      assert.deepEqual([first?.cookie, first?.error, first?.at], [1n, EINVAL, 3n]);
      assert.deepEqual([second?.cookie, second?.kind], [2n, 'none']);
    });
  }

  test('the flag without extended headers is EINVAL', () => {
    const m = new Machine({ features: { structuredReplies: true, contexts: ALLOCATION } });
    m.feed(
      request({ type: CMD.write, payload: Buffer.from('abc'), flags: FLAG.payload }),
      request({ type: CMD.blockStatus, length: 512, flags: FLAG.payload }),
    );
    m.settle();
    assert.deepEqual(
      m.answers().map(({ error }) => error),
      [EINVAL, EINVAL],
    );
    m.dispose();
  });

  test('more than the largest payload ends the connection, after what was accepted is answered', () => {
    for (const fields of [
      { type: CMD.write, length: 2 ** 26 + 1 },
      { type: CMD.read, length: 2 ** 26 + 1 },
      { type: CMD.blockStatus, length: 2n ** 64n - 1n },
    ]) {
      const m = machine(large(2 ** 40));
      m.feed(extendedRequest({ type: CMD.flush }), extendedRequest({ ...fields, flags: FLAG.payload }));
      assert.ok(m.transmission.stopped);
      assert.match(m.transmission.problem, /of \d+ bytes/);
      m.settle();
      assert.equal(m.chunks('extended').length, 1);
      m.dispose();
    }
  });

  test('refused WRITEs are drained: read-only, past the end', () => {
    const bytes = Buffer.alloc(9000);
    const readOnly = said(
      [extendedRequest({ type: CMD.write, payload: bytes }), extendedRequest({ type: CMD.flush })],
      { export: { readOnly: true } },
    );
    assert.deepEqual(
      readOnly.map(({ error }) => error),
      [EPERM, 0],
    );
    const past = said([
      extendedRequest({ type: CMD.write, offset: SIZE - 1, payload: bytes }),
      extendedRequest({ type: CMD.flush }),
    ]);
    assert.deepEqual(
      past.map(({ error, offset }) => [error, offset]),
      [
        [ENOSPC, SIZE],
        [0, -1],
      ],
    );
  });

  test('a compact request has no magic here, and the other way round', () => {
    const extended = machine();
    extended.feed(Buffer.concat([request({ type: CMD.flush }), Buffer.alloc(4)]));
    assert.match(extended.transmission.problem, /without its magic: 0x25609513/);
    extended.dispose();
    const compact = new Machine();
    compact.feed(extendedRequest({ type: CMD.flush }));
    assert.match(compact.transmission.problem, /without its magic: 0x21e41c71/);
    compact.dispose();
  });
});

/** Three extents of 1 KiB. */
function turns(first: number): number[][] {
  return [0, 1, 2].map((i) => [1024, (first + i) % 2]);
}

describe('BLOCK_STATUS', () => {
  test('a chunk for each context, the last says so; REQ_ONE is one extent each', () => {
    const m = machine();
    m.status = (command, extents, index) => {
      for (let i = 0; i < 3 && extents.add(command.length / 4, (i + index) % 2); i++);
    };
    m.feed(extendedRequest({ type: CMD.blockStatus, offset: 4096, length: 4096 }));
    m.settle();
    m.feed(extendedRequest({ type: CMD.blockStatus, offset: 4096, length: 4096, flags: FLAG.reqOne }));
    m.settle();
    const all = m.chunks('extended');
    assert.deepEqual(
      all.map(({ done, at }) => [done, at]),
      [false, false, true, false, false, true].map((done) => [done, 4096n]),
    );
    assert.deepEqual(all.slice(0, 3).map(statusOf), [
      [1, turns(0)],
      [2, turns(1)],
      [3, turns(0)],
    ]);
    assert.deepEqual(
      all.slice(3).map((answer) => statusOf(answer)[1].length),
      [1, 1, 1],
    );
    m.dispose();
  });

  test('the payload selects: those contexts only, in the order of their numbers', () => {
    const all = said([
      extendedRequest({ type: CMD.blockStatus, offset: 512, payload: filter(1024, [3, 1]), cookie: 1n }),
      extendedRequest({
        type: CMD.blockStatus,
        payload: filter(SIZE, [2]),
        flags: FLAG.payload | FLAG.reqOne,
        cookie: 2n,
      }),
    ]);
    assert.deepEqual(
      all.map((answer) => [answer.cookie, answer.done, answer.at, ...statusOf(answer)]),
      [
        [1n, false, 512n, 1, [[1024, 0]]],
        [1n, true, 512n, 3, [[1024, 0]]],
        [2n, true, 0n, 2, [[SIZE, 0]]],
      ],
    );
  });

  const bad: readonly (readonly [string, Buffer, number?])[] = [
    ['no context', filter(512, [])],
    ['a context twice', filter(512, [1, 1])],
    ['an unknown context', filter(512, [1, 9])],
    ['context 0', filter(512, [0])],
    ['more contexts than were selected', filter(512, [1, 2, 3, 3])],
    ['half a number', Buffer.alloc(14)],
    ['7 bytes', Buffer.alloc(7)],
    ['a megabyte', Buffer.alloc(2 ** 20)],
    ['no length', filter(0, [1])],
    ['a length past the end', filter(SIZE + 1, [1])],
    ['a length of 2^64-1', filter(2n ** 64n - 1n, [1])],
    ['an offset past the end', filter(1, [1]), SIZE],
  ];
  for (const [name, payload, offset = 0] of bad) {
    test(`refused, its payload consumed: ${name}`, () => {
      const [first, second, ...more] = said([
        extendedRequest({ type: CMD.blockStatus, offset, payload, cookie: 1n }),
        extendedRequest({ type: CMD.flush, cookie: 2n }),
      ]);
      assert.deepEqual([first?.cookie, first?.error], [1n, EINVAL]);
      assert.notEqual(first?.text, '');
      assert.deepEqual([second?.cookie, second?.kind, more.length], [2n, 'none', 0]);
    });
  }

  test('without a context a payload is consumed and refused', () => {
    const all = said(
      [
        extendedRequest({ type: CMD.blockStatus, payload: filter(512, [1]) }),
        extendedRequest({ type: CMD.blockStatus, length: 512 }),
      ],
      { features: { ...features, contexts: [] } },
    );
    assert.deepEqual(
      all.map(({ error }) => error),
      [EINVAL, EINVAL],
    );
  });
});

test('any requests, cut anywhere, finished in any order: each answered to its end once, nothing leaks', () => {
  const anyRequest = fc.record({
    type: fc.constantFrom(0, 0, 1, 1, 3, 4, 5, 6, 7, 7, 99),
    flags: fc.constantFrom(undefined, undefined, undefined, FLAG.df, FLAG.fua, FLAG.payload, 0xffff),
    offset: fc.oneof(fc.nat(SIZE + 10), fc.constant(2n ** 63n)),
    length: fc.oneof(fc.nat(9000), fc.constantFrom(0, 1, SIZE, 2 ** 40)),
    filter: fc.option(fc.array(fc.nat(4), { maxLength: 4 })),
  });
  fc.assert(
    fc.property(fc.array(anyRequest, { maxLength: 30 }), fc.infiniteStream(fc.nat(1000)), (list, random) => {
      const m = machine({ limits: { maxRequests: 8, maxBytes: 200_000 } });
      const next = (): number => random.next().value as number;
      const bytes = Buffer.concat(
        list.map(({ type, flags, offset, length, filter: ids }, i) => {
          const fields = { type, offset, cookie: BigInt(i), ...(flags === undefined ? {} : { flags }) };
          const payload = type === CMD.write ? Buffer.alloc(length % 9000) : ids === null ? null : filter(length, ids);
          const has = type === CMD.write || (flags === undefined ? payload !== null : (flags & FLAG.payload) !== 0);
          if (has) return extendedRequest({ ...fields, payload: payload ?? Buffer.alloc(20) });
          return extendedRequest({ ...fields, length });
        }),
      );
      m.converse(bytes, next);
      const found = m.chunks('extended');
      assert.deepEqual(
        found
          .filter(({ done }) => done)
          .map(({ cookie }) => Number(cookie))
          .toSorted((a, b) => a - b),
        list.map((_, i) => i),
      );
      for (const { cookie, at } of found) assert.equal(at, BigInt(list[Number(cookie)]!.offset));
      m.dispose();
    }),
    { numRuns: 100 },
  );
});

test('requests cut in two anywhere are answered alike', () => {
  const bytes = Buffer.concat([
    extendedRequest({ type: CMD.read, cookie: 1n, offset: 1, length: 5, flags: FLAG.df }),
    extendedRequest({ type: CMD.write, cookie: 2n, offset: SIZE, payload: Buffer.from('xy') }),
    extendedRequest({ type: CMD.blockStatus, cookie: 3n, payload: filter(512, [2]) }),
    extendedRequest({ type: CMD.trim, cookie: 4n, payload: Buffer.from('no') }),
  ]);
  for (const chunked of everySplit(bytes)) {
    const m = machine();
    m.feed(...chunked);
    m.settle();
    const kinds = Object.fromEntries(m.chunks('extended').map(({ kind, cookie }) => [String(cookie), kind]));
    assert.deepEqual(kinds, { 1: 'data', 2: 'errorOffset', 3: 'statusExt', 4: 'error' });
    m.dispose();
  }
});

test('what was half sent goes on elsewhere', () => {
  const bytes = extendedRequest({ type: CMD.write, offset: 10, payload: Buffer.alloc(200_000, 7), cookie: 5n });
  for (const cut of [1, 31, 32, 33, 1000, 100_000]) {
    const first = machine();
    first.feed(bytes.subarray(0, cut));
    const unparsed = first.transmission.unparsed();
    assert.ok(unparsed !== null);
    assert.deepEqual(unparsed, bytes.subarray(0, cut));
    const second = machine();
    second.feed(unparsed, bytes.subarray(cut));
    second.settle();
    assert.deepEqual(
      second.chunks('extended').map(({ kind, cookie }) => [kind, cookie]),
      [['none', 5n]],
    );
    assert.ok(second.disk.subarray(10, 200_010).every((byte) => byte === 7));
    first.dispose();
    second.dispose();
  }
});
