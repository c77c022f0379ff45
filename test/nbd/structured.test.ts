/** Structured replies: which chunk answers which command, byte for byte, and that what is accounted for is given back. */
import assert from 'node:assert/strict';
import { randomFillSync } from 'node:crypto';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { MemoryDevice } from '../../src/block/memory.ts';
import type { ExtentList } from '../../src/block/extents.ts';
import type { Command } from '../../src/nbd/command.ts';
import {
  type Answer,
  EIO,
  EINVAL,
  ENOSPC,
  ENOTSUP,
  EPERM,
  everySplit,
  CMD,
  extendedRequest,
  FLAG,
  request,
} from './wire.ts';
import { ALLOCATION } from './exports.ts';
import { Machine, type MachineOptions } from './machine.ts';

const SIZE = 2 ** 20;
const features = { structuredReplies: true, contexts: [] };

function machine(options: MachineOptions = {}): Machine {
  const made = new Machine({ features, ...options });
  randomFillSync(made.disk);
  return made;
}

/** A volume of which a range is known to be zero. */
function sparse(start: number, end: number): MachineOptions {
  const device = new MemoryDevice({ sizeBytes: SIZE });
  const volume = {
    name: device.name,
    limits: device.limits,
    submit: () => assert.fail('the host has its own disk'),
    zeroRun: (offset: number, length: number) => {
      const next = offset < start ? start : offset < end ? end : SIZE;
      const run = Math.min(next - offset, length);
      return offset >= start && offset < end ? run : -run;
    },
    close: () => device.close(),
  };
  return { export: { volume } };
}

/** What the chunks say, as [offset, bytes, hole]; and that they put together are what is on the disk. */
function readIn(m: Machine, offset: number, length: number, style?: 'extended'): (number | boolean)[][] {
  const found = m.chunks(style);
  assert.deepEqual(
    found.map(({ done }) => done),
    found.map((_, i) => i === found.length - 1),
  );
  const told = found.map(({ kind, offset: at, data }) =>
    kind === 'hole' ? Buffer.alloc(data.readUInt32BE()) : (assert.equal(kind, 'data'), assert.ok(at >= 0), data),
  );
  assert.deepEqual(Buffer.concat(told), m.disk.subarray(offset, offset + length));
  return found.map(({ kind, offset: at }, i) => [at, told[i]!.length, kind === 'hole']);
}

/** Zeroes in every other KiB. */
function everyOtherKib(offset: number, length: number): number {
  const run = Math.min(1024 - (offset % 1024), length);
  return Math.floor(offset / 1024) % 2 === 0 ? run : -run;
}

describe('replies to good commands', () => {
  test('a READ is one OFFSET_DATA chunk, with DF or without', () => {
    const m = machine();
    m.feed(request({ type: CMD.read, cookie: 2n ** 64n - 2n, offset: 4097, length: 1000 }));
    m.feed(request({ type: CMD.read, cookie: 7n, offset: SIZE - 3, length: 3, flags: FLAG.df }));
    m.settle();
    const [first, second, ...more] = m.answers();
    assert.deepEqual([first?.kind, first?.cookie, first?.offset], ['data', 2n ** 64n - 2n, 4097]);
    assert.deepEqual(first?.data, m.disk.subarray(4097, 5097));
    assert.deepEqual([second?.kind, second?.cookie, second?.data], ['data', 7n, m.disk.subarray(SIZE - 3)]);
    assert.deepEqual(more, []);
    m.dispose();
  });

  test('the largest READ, with DF, is one chunk', () => {
    const m = machine({ sizeBytes: 2 ** 26 });
    m.feed(request({ type: CMD.read, length: 2 ** 26, flags: FLAG.df }));
    m.settle();
    const [answer] = m.answers();
    assert.equal(answer?.kind, 'data');
    assert.ok(answer.data.equals(m.disk));
    m.dispose();
  });

  test('a READ of nothing is NONE', () => {
    const m = machine();
    m.feed(request({ type: CMD.read, cookie: 1n, offset: 5 }));
    m.settle();
    assert.deepEqual(
      m.answers().map(({ kind, cookie }) => [kind, cookie]),
      [['none', 1n]],
    );
    m.dispose();
  });

  test('what the map knows to be zero is a hole, unless that is longer than its data', () => {
    const m = machine(sparse(65_536, 131_072));
    m.disk.fill(0, 65_536, 131_072);
    m.feed(
      request({ type: CMD.read, cookie: 1n, offset: 65_536, length: 65_536 }),
      request({ type: CMD.read, cookie: 2n, offset: 65_537, length: 4, flags: FLAG.df }),
      request({ type: CMD.read, cookie: 3n, offset: 65_537, length: 3 }),
      request({ type: CMD.read, cookie: 4n, offset: 65_535, length: 2 }),
    );
    m.settle();
    const found = m.answers().toSorted((a, b) => Number(a.cookie - b.cookie));
    assert.deepEqual(
      found.map(({ kind, offset }) => [kind, offset]),
      [
        ['hole', 65_536],
        ['hole', 65_537],
        ['data', 65_537],
        ['data', 65_535],
      ],
    );
    assert.deepEqual([found[0]?.data.readUInt32BE(), found[1]?.data.readUInt32BE()], [65_536, 4]);
    assert.equal(m.transmission.bytesInFlight, 0);
    m.dispose();
  });

  describe('holes inside a READ', () => {
    for (const extendedHeaders of [false, true]) {
      const style = extendedHeaders ? 'extended' : undefined;
      const read = (offset: number, length: number, flags = 0): Buffer =>
        extendedHeaders
          ? extendedRequest({ type: CMD.read, offset, length, flags })
          : request({ type: CMD.read, offset, length, flags });
      const cases: readonly (readonly [string, number, number, number, (number | boolean)[][]])[] = [
        [
          'data, hole, data',
          60_000,
          80_000,
          0,
          [
            [60_000, 5536, false],
            [65_536, 65_536, true],
            [131_072, 8928, false],
          ],
        ],
        [
          'hole, data',
          65_536,
          65_546,
          0,
          [
            [65_536, 65_536, true],
            [131_072, 10, false],
          ],
        ],
        [
          'data, hole',
          65_530,
          20_000,
          0,
          [
            [65_530, 6, false],
            [65_536, 19_994, true],
          ],
        ],
        ['with DF', 60_000, 80_000, FLAG.df, [[60_000, 80_000, false]]],
        ['a hole too short', 65_000, 1000, 0, [[65_000, 1000, false]]],
        [
          'a hole just long enough',
          65_000,
          1048,
          0,
          [
            [65_000, 536, false],
            [65_536, 512, true],
          ],
        ],
      ];
      for (const [name, offset, length, flags, expected] of cases) {
        test(`${name}${extendedHeaders ? ', extended' : ''}`, () => {
          const m = machine({ ...sparse(65_536, 131_072), features: { ...features, extendedHeaders } });
          m.disk.fill(0, 65_536, 131_072);
          m.feed(read(offset, length, flags));
          m.settle();
          assert.deepEqual(readIn(m, offset, length, style), expected);
          assert.equal(m.transmission.bytesInFlight, 0);
          m.dispose();
        });
      }
    }

    test('many holes, READs side by side, and a client that vanishes', () => {
      const device = new MemoryDevice({ sizeBytes: SIZE });
      const volume = {
        name: 'v',
        limits: device.limits,
        submit: () => assert.fail(),
        zeroRun: everyOtherKib,
        close: () => device.close(),
      };
      const m = machine({ export: { volume } });
      for (let at = 0; at < SIZE; at += 2048) m.disk.fill(0, at, at + 1024);
      const reads = Array.from({ length: 20 }, (_, i) => ({ offset: 700 * i, length: 3000 * (i + 1) }));
      m.feed(...reads.map((fields, i) => request({ type: CMD.read, cookie: BigInt(i), ...fields })));
      m.settle();
      const found = m.chunks();
      reads.forEach(({ offset, length }, i) => {
        const own = found.filter(({ cookie }) => cookie === BigInt(i));
        assert.ok(own.length > 1 && own.length <= 64);
        assert.equal(own.at(-1)?.done, true);
        const bytes = own.map(({ kind, data }) => (kind === 'hole' ? Buffer.alloc(data.readUInt32BE()) : data));
        assert.deepEqual(Buffer.concat(bytes), m.disk.subarray(offset, offset + length));
      });
      assert.equal(m.transmission.bytesInFlight, 0);
      m.feed(...reads.map((fields) => request({ type: CMD.read, ...fields })));
      for (let i = 0; i < 10; i++) m.finish(m.pending[0]);
      m.dispose();
    });
  });

  test('other commands that went well get simple replies', () => {
    const m = machine();
    m.feed(
      request({ type: CMD.write, payload: Buffer.from('abc') }),
      request({ type: CMD.flush }),
      request({ type: CMD.trim, length: 512 }),
      request({ type: CMD.writeZeroes, length: 512 }),
      request({ type: CMD.cache, length: 512 }),
    );
    m.settle();
    assert.deepEqual(
      m.answers().map(({ kind, error }) => [kind, error]),
      Array.from({ length: 5 }, () => ['simple', 0]),
    );
    m.dispose();
  });
});

/** Extents of a BLOCK_STATUS reply, as [bytes, status]. */
function extentsOf(answer: Answer | undefined): number[][] {
  assert.equal(answer?.kind, 'status');
  const { data } = answer;
  assert.equal(data.readUInt32BE(), 1, 'the number of the context');
  const extents: number[][] = [];
  for (let at = 4; at < data.length; at += 8) extents.push([data.readUInt32BE(at), data.readUInt32BE(at + 4)]);
  return extents;
}

/** Tells of holes and data in turn, of so many bytes each. */
const pieces =
  (bytes: number) =>
  (command: Command, extents: ExtentList): void => {
    for (let at = 0; at < command.length && extents.add(bytes, (at / bytes) % 2 === 0 ? 3 : 0); at += bytes);
  };

describe('BLOCK_STATUS', () => {
  const withContext: MachineOptions = { features: { structuredReplies: true, contexts: ALLOCATION } };
  test('is one chunk with the extents; REQ_ONE is one extent', () => {
    const m = machine(withContext);
    m.status = pieces(4096);
    m.feed(
      request({ type: CMD.blockStatus, cookie: 1n, offset: 4096, length: 12_288 }),
      request({ type: CMD.blockStatus, cookie: 2n, length: 12_288, flags: FLAG.reqOne | FLAG.fua }),
      request({ type: CMD.blockStatus, cookie: 3n, length: SIZE }),
      request({ type: CMD.blockStatus, cookie: 4n, length: 12_288 }),
    );
    m.finish(m.pending[0]);
    m.finish(m.pending[0]);
    m.status = pieces(512);
    m.finish(m.pending[0]);
    m.finish(m.pending[0], EIO);
    m.flush();
    const [first, second, third, fourth] = m.answers();
    assert.deepEqual(extentsOf(first), [
      [4096, 3],
      [4096, 0],
      [4096, 3],
    ]);
    assert.deepEqual(extentsOf(second), [[4096, 3]]);
    assert.equal(extentsOf(third).length, 512, 'bounded');
    assert.deepEqual([fourth?.kind, fourth?.error], ['errorOffset', EIO]);
    assert.equal(m.transmission.bytesInFlight, 0);
    m.dispose();
  });

  test('its memory counts as payload: more than the limit wait', () => {
    const m = machine({ ...withContext, limits: { maxBytes: 13_000 } });
    m.feed(
      Buffer.concat(
        Array.from({ length: 5 }, (_, i) => request({ type: CMD.blockStatus, cookie: BigInt(i), length: 9 })),
      ),
    );
    assert.deepEqual([m.pending.length, m.transmission.holding], [2, true]);
    assert.equal(m.transmission.bytesInFlight, m.budget.used);
    m.settle();
    assert.equal(m.answers().length, 5);
    assert.equal(m.budget.used, 0);
    m.dispose();
  });

  test('lists go back and are clean when they are used again; a client may vanish', () => {
    const m = machine(withContext);
    for (let i = 0; i < 3; i++) {
      m.feed(...Array.from({ length: 5 }, () => request({ type: CMD.blockStatus, length: 1000 })));
      m.settle();
    }
    for (const answer of m.answers()) assert.deepEqual(extentsOf(answer), [[1000, 0]]);
    m.feed(request({ type: CMD.blockStatus, length: 1000 }));
    m.dispose();
  });

  test('refused: without a context, of no bytes, past the end, with unknown flags', () => {
    const without = machine();
    without.feed(request({ type: CMD.blockStatus, length: 512, cookie: 1n }));
    without.settle();
    assert.deepEqual(
      without.answers().map(({ error, text }) => [error, text]),
      [[EINVAL, 'BLOCK_STATUS: no meta context was selected for this export']],
    );
    without.dispose();
    const m = machine(withContext);
    for (const fields of [
      { length: 0 },
      { offset: SIZE - 1, length: 2 },
      { length: 0xffffffff },
      { length: 1, flags: FLAG.df },
    ]) {
      m.feed(request({ type: CMD.blockStatus, ...fields }));
    }
    m.settle();
    assert.deepEqual(
      m.answers().map(({ error }) => error),
      [EINVAL, EINVAL, EINVAL, EINVAL],
    );
    m.dispose();
  });
});

describe('errors', () => {
  type Row = readonly [string, Parameters<typeof request>[0], number, number, RegExp];
  const refused: readonly Row[] = [
    [
      'READ across the end',
      { type: CMD.read, offset: SIZE - 10, length: 20 },
      EINVAL,
      SIZE,
      /READ: 20 bytes at offset/,
    ],
    ['READ behind the end', { type: CMD.read, offset: SIZE, length: 1 }, EINVAL, SIZE, /not inside/],
    ['READ at 2^64-512', { type: CMD.read, offset: 2n ** 64n - 512n, length: 512 }, EINVAL, -1, /not inside/],
    ['READ of 65 MiB', { type: CMD.read, length: 65 * 2 ** 20 }, EINVAL, SIZE, /at most 67108864/],
    ['WRITE across the end', { type: CMD.write, offset: SIZE - 1, payload: Buffer.alloc(2) }, ENOSPC, SIZE, /WRITE/],
    ['TRIM with DF', { type: CMD.trim, length: 1, flags: FLAG.df }, EINVAL, 0, /flags 0x4/],
    ['READ with REQ_ONE', { type: CMD.read, length: 1, flags: FLAG.reqOne }, EINVAL, 0, /flags 0x8/],
    [
      'WRITE_ZEROES with FAST_ZERO',
      { type: CMD.writeZeroes, length: 1, flags: FLAG.fastZero },
      ENOTSUP,
      0,
      /not known to be faster/,
    ],
    ['an unknown command', { type: 99 }, EINVAL, -1, /command 99/],
  ];
  for (const [name, fields, error, offset, text] of refused) {
    test(`refused: ${name}`, () => {
      const m = machine();
      m.feed(request({ ...fields, cookie: 9n }), request({ type: CMD.flush }));
      m.settle();
      const [answer, next] = m.answers();
      assert.deepEqual([answer?.cookie, answer?.error, answer?.offset], [9n, error, offset]);
      assert.match(answer?.text ?? '', text);
      assert.equal(next?.kind, 'simple', 'the connection lives');
      m.dispose();
    });
  }

  test('writes to a read-only export, and failures of the volume', () => {
    const m = machine({ export: { readOnly: true } });
    m.feed(request({ type: CMD.write, offset: 4096, payload: Buffer.alloc(4096) }));
    m.feed(request({ type: CMD.read, offset: 512, length: 512 }), request({ type: CMD.flush }));
    while (m.pending.length > 0) m.finish(m.pending[0], EIO);
    m.flush();
    assert.deepEqual(
      m.answers().map(({ kind, error, offset, text }) => [kind, error, offset, text]),
      [
        ['errorOffset', EPERM, 4096, 'WRITE: the export is read-only'],
        ['errorOffset', EIO, 512, 'I/O error on the volume'],
        ['error', EIO, -1, 'I/O error on the volume'],
      ],
    );
    m.dispose();
  });

  test('the offset is that of the piece that failed, where the volume knows it', () => {
    const m = machine();
    m.feed(request({ type: CMD.read, offset: 4096, length: 8192 }), request({ type: CMD.trim, offset: 7, length: 9 }));
    m.pending[0]!.failedAt = 512;
    m.pending[1]!.failedAt = 1000;
    while (m.pending.length > 0) m.finish(m.pending[0], EIO);
    m.flush();
    assert.deepEqual(
      m.answers().map(({ offset }) => offset),
      [4608, 15],
      'never outside the request',
    );
    m.dispose();
  });

  test('DF without structured replies is EINVAL', () => {
    const m = new Machine();
    m.feed(request({ type: CMD.read, length: 1, flags: FLAG.df, cookie: 1n }));
    m.settle();
    assert.deepEqual(m.errors(), { 1: EINVAL });
    m.dispose();
  });
});

test('any requests, cut anywhere, finished in any order, ending at any time: each answered once, nothing leaks', () => {
  const anyRequest = fc.record({
    type: fc.constantFrom(0, 0, 0, 1, 3, 4, 5, 6, 7, 99),
    flags: fc.constantFrom(0, 0, 0, FLAG.df, FLAG.fua, 0xffff),
    offset: fc.oneof(fc.nat(SIZE + 10), fc.constant(2n ** 63n)),
    length: fc.oneof(fc.nat(9000), fc.constantFrom(0, 1, SIZE, 0xffffffff)),
  });
  fc.assert(
    fc.property(fc.array(anyRequest, { maxLength: 30 }), fc.infiniteStream(fc.nat(1000)), (list, random) => {
      const agreed = { structuredReplies: true, contexts: ALLOCATION };
      const limits = { maxRequests: 8, maxBytes: 100_000 };
      const m = machine({ ...sparse(8192, 400_000), limits, features: agreed });
      m.disk.fill(0, 8192, 400_000);
      const next = (): number => random.next().value as number;
      const bytes = Buffer.concat(
        list.map(({ length, ...fields }, i) =>
          fields.type === CMD.write
            ? request({ ...fields, cookie: BigInt(i), payload: Buffer.alloc(length % 9000) })
            : request({ ...fields, cookie: BigInt(i), length }),
        ),
      );
      m.converse(bytes, next);
      const found = m.chunks();
      assert.deepEqual(
        found
          .filter(({ done }) => done)
          .map(({ cookie }) => Number(cookie))
          .toSorted((a, b) => a - b),
        list.map((_, i) => i),
      );
      list.forEach(({ type, length }, i) => {
        const own = found.filter(({ cookie }) => Number(cookie) === i);
        if (type !== CMD.read || own[0]?.error !== 0 || own[0].kind === 'none') return;
        const sizes = own.map(({ kind, data }) => (kind === 'hole' ? data.readUInt32BE() : data.length));
        assert.equal(
          sizes.reduce((sum, size) => sum + size, 0),
          length,
        );
        for (const { kind, data, offset } of own) {
          assert.ok(kind === 'data' || kind === 'hole', kind);
          if (kind === 'hole') assert.ok(offset >= 8192 && offset + data.readUInt32BE() <= 400_000);
        }
      });
      m.dispose();
    }),
    { numRuns: 60 },
  );
});

test('requests cut in two anywhere are answered alike', () => {
  const bytes = Buffer.concat([
    request({ type: CMD.read, cookie: 1n, offset: 1, length: 5, flags: FLAG.df }),
    request({ type: CMD.write, cookie: 2n, offset: SIZE, payload: Buffer.from('xy') }),
    request({ type: CMD.read, cookie: 3n }),
  ]);
  for (const chunks of everySplit(bytes)) {
    const m = machine();
    m.feed(...chunks);
    m.settle();
    const kinds = Object.fromEntries(m.answers().map(({ kind, cookie }) => [String(cookie), kind]));
    assert.deepEqual(kinds, { 1: 'data', 2: 'errorOffset', 3: 'none' });
    m.dispose();
  }
});
