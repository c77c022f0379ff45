/** The transmission machine against the wire facts 16-24, 30 and 31, and its own limits. */
import assert from 'node:assert/strict';
import { randomFillSync } from 'node:crypto';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { MemoryDevice } from '../../src/block/memory.ts';
import { makeExport, resizable } from './exports.ts';
import { cookieOf, Machine, INLET_BYTES, INLETS } from './machine.ts';
import { CMD, EINVAL, ENOSPC, ENOTSUP, EPERM, everySplit, request, type Request } from './wire.ts';

const MIB = 2 ** 20;
const FUA = 1;

/** Feeds one request and returns the error of its reply and what the volume was asked for. */
function single(fields: Request, machine = new Machine()): { error: number | undefined; seen: readonly string[] } {
  machine.feed(request({ cookie: 7n, ...fields }), request({ type: CMD.flush, cookie: 8n }));
  machine.settle();
  const errors = machine.errors();
  assert.equal(errors['8'], 0, 'the connection lives on');
  machine.dispose();
  return { error: errors['7'], seen: machine.seen.slice(0, -1) };
}

function read(cookie: bigint, length: number, offset = 0): Buffer {
  return request({ type: CMD.read, cookie, offset, length });
}

describe('transmission', () => {
  test('serves every command, whatever the cookie, and answers in the order of completion', () => {
    const machine = new Machine();
    const data = randomFillSync(Buffer.alloc(5000));
    machine.feed(
      request({ type: CMD.write, cookie: 0xffffffffffffffffn, offset: 1000, payload: data }),
      request({ type: CMD.writeZeroes, flags: 3, cookie: 1n, offset: 0, length: 10 }),
      request({ type: CMD.trim, cookie: 1n << 63n, offset: 8192, length: 4096 }),
      request({ type: CMD.cache, cookie: 0x0123456789abcdefn, offset: 0, length: MIB }),
      request({ type: CMD.flush, cookie: 0n }),
      request({ type: CMD.read, cookie: 2n, offset: 999, length: 5002 }),
    );
    assert.deepEqual(machine.seen, [
      'write 1000+5000 flags 0',
      'writeZeroes 0+10 flags 3',
      'trim 8192+4096 flags 0',
      `cache 0+${MIB} flags 0`,
      'flush 0+0 flags 0',
      'read 999+5002 flags 0',
    ]);
    for (const index of [0, 4, 2, 1, 1, 0]) machine.finish(machine.pending[index]);
    machine.flush();
    const replies = machine.replies();
    assert.deepEqual(
      new Set(replies.map(({ cookie }) => cookie)),
      new Set([0xffffffffffffffffn, 1n, 1n << 63n, 0x0123456789abcdefn, 0n, 2n]),
    );
    assert.deepEqual(replies.at(-1)?.data, Buffer.concat([Buffer.alloc(1), data, Buffer.alloc(1)]));
    machine.dispose();
  });

  test('every message may be cut at every byte', () => {
    const data = randomFillSync(Buffer.alloc(70));
    const script = Buffer.concat([
      request({ type: CMD.write, cookie: 1n, offset: 5, payload: data }),
      request({ type: CMD.read, cookie: 2n, offset: 3, length: 80 }),
      request({ type: CMD.write, cookie: 3n, offset: MIB, payload: data }),
      request({ type: 77, cookie: 4n, length: 9 }),
      request({ type: CMD.write, cookie: 5n, offset: 60, payload: data.subarray(0, 20) }),
      request({ type: CMD.read, cookie: 6n, offset: 0, length: 90 }),
      request({ type: CMD.disc }),
      Buffer.from('ignored'),
    ]);
    for (const chunks of everySplit(script)) {
      const machine = new Machine();
      for (const chunk of chunks) {
        machine.feed(chunk);
        machine.turn();
      }
      assert.deepEqual(machine.errors(), { 1: 0, 2: 0, 3: ENOSPC, 4: EINVAL, 5: 0, 6: 0 });
      assert.ok(machine.transmission.stopped && machine.transmission.idle);
      assert.deepEqual(machine.replies().find(({ cookie }) => cookie === 6n)?.data, machine.disk.subarray(0, 90));
      assert.deepEqual(machine.disk.subarray(5, 60), data.subarray(0, 55));
      machine.dispose();
    }
  });

  interface Fact {
    readonly name: string;
    readonly fields: Request;
    readonly error: number;
    readonly machine?: ConstructorParameters<typeof Machine>[0];
    /** Whether the volume sees it. */
    readonly reaches?: boolean;
  }
  const READ_ONLY = { export: { readOnly: true } };
  const facts: readonly Fact[] = [
    { name: 'READ of the last byte', fields: { type: CMD.read, offset: MIB - 1, length: 1 }, error: 0, reaches: true },
    { name: 'READ past the end', fields: { type: CMD.read, offset: MIB - 1, length: 2 }, error: EINVAL },
    { name: 'READ at 2^64-512', fields: { type: CMD.read, offset: 2n ** 64n - 512n, length: 512 }, error: EINVAL },
    { name: 'READ at 2^53+1', fields: { type: CMD.read, offset: 2n ** 53n + 1n, length: 1 }, error: EINVAL },
    { name: 'READ of 4 GiB-1', fields: { type: CMD.read, length: 0xffffffff }, error: EINVAL },
    {
      name: 'WRITE past the end',
      fields: { type: CMD.write, offset: MIB - 1, payload: Buffer.alloc(2) },
      error: ENOSPC,
    },
    {
      name: 'WRITE at 2^64-512',
      fields: { type: CMD.write, offset: 2n ** 64n - 512n, payload: Buffer.alloc(512) },
      error: ENOSPC,
    },
    { name: 'WRITE_ZEROES past the end', fields: { type: CMD.writeZeroes, offset: 1, length: MIB }, error: ENOSPC },
    { name: 'TRIM past the end', fields: { type: CMD.trim, offset: 1, length: MIB }, error: EINVAL },
    { name: 'CACHE past the end', fields: { type: CMD.cache, offset: 1, length: MIB }, error: EINVAL },
    { name: 'TRIM of everything', fields: { type: CMD.trim, length: MIB }, error: 0, reaches: true },
    {
      name: 'TRIM where it was not offered',
      fields: { type: CMD.trim, length: 512 },
      error: EINVAL,
      machine: { export: { canTrim: false } },
    },
    {
      name: 'TRIM that was offered, of a volume that can no more',
      fields: { type: CMD.trim, length: 512 },
      error: 0,
      machine: { export: { canTrim: false }, features: { trims: true } },
      reaches: true,
    },
    { name: 'READ, read-only', fields: { type: CMD.read, length: 1 }, error: 0, machine: READ_ONLY, reaches: true },
    { name: 'FLUSH, read-only', fields: { type: CMD.flush }, error: 0, machine: READ_ONLY, reaches: true },
    {
      name: 'WRITE, read-only',
      fields: { type: CMD.write, payload: Buffer.alloc(99) },
      error: EPERM,
      machine: READ_ONLY,
    },
    { name: 'TRIM, read-only', fields: { type: CMD.trim, length: 1 }, error: EPERM, machine: READ_ONLY },
    { name: 'WRITE_ZEROES, read-only', fields: { type: CMD.writeZeroes, length: 1 }, error: EPERM, machine: READ_ONLY },
    { name: 'READ of nothing', fields: { type: CMD.read, offset: 5 }, error: 0 },
    { name: 'READ of nothing at the end', fields: { type: CMD.read, offset: MIB }, error: 0 },
    { name: 'READ of nothing past the end', fields: { type: CMD.read, offset: MIB + 1 }, error: EINVAL },
    { name: 'WRITE of nothing', fields: { type: CMD.write, offset: 5 }, error: 0 },
    { name: 'WRITE of nothing, read-only', fields: { type: CMD.write }, error: EPERM, machine: READ_ONLY },
    { name: 'TRIM of nothing', fields: { type: CMD.trim }, error: 0 },
    { name: 'WRITE_ZEROES of nothing', fields: { type: CMD.writeZeroes }, error: 0 },
    { name: 'CACHE of nothing', fields: { type: CMD.cache }, error: 0 },
    { name: 'BLOCK_STATUS', fields: { type: CMD.blockStatus, length: 512 }, error: EINVAL },
    { name: 'BLOCK_STATUS of nothing', fields: { type: CMD.blockStatus }, error: EINVAL },
    { name: 'RESIZE', fields: { type: 8, length: 512 }, error: EINVAL },
    { name: 'command 65535', fields: { type: 65_535, length: 512 }, error: EINVAL },
    {
      name: 'FLUSH with offset and length',
      fields: { type: CMD.flush, offset: 512, length: 512 },
      error: 0,
      reaches: true,
    },
    { name: 'FUA on READ', fields: { type: CMD.read, flags: FUA, length: 1 }, error: 0, reaches: true },
    {
      name: 'FUA on WRITE',
      fields: { type: CMD.write, flags: FUA, payload: Buffer.alloc(1) },
      error: 0,
      reaches: true,
    },
    { name: 'FUA on FLUSH', fields: { type: CMD.flush, flags: FUA }, error: 0, reaches: true },
    { name: 'FUA on TRIM', fields: { type: CMD.trim, flags: FUA, length: 1 }, error: 0, reaches: true },
    { name: 'FUA on CACHE', fields: { type: CMD.cache, flags: FUA, length: 1 }, error: 0, reaches: true },
    {
      name: 'FUA and NO_HOLE on WRITE_ZEROES',
      fields: { type: CMD.writeZeroes, flags: 3, length: 1 },
      error: 0,
      reaches: true,
    },
    { name: 'NO_HOLE on TRIM', fields: { type: CMD.trim, flags: 2, length: 1 }, error: EINVAL },
    { name: 'DF on READ', fields: { type: CMD.read, flags: 4, length: 1 }, error: EINVAL },
    { name: 'FAST_ZERO', fields: { type: CMD.writeZeroes, flags: 16, length: 1 }, error: ENOTSUP },
    { name: 'PAYLOAD_LEN on WRITE', fields: { type: CMD.write, flags: 32, payload: Buffer.alloc(9) }, error: EINVAL },
    { name: 'an unknown flag', fields: { type: CMD.read, flags: 0x8000, length: 1 }, error: EINVAL },
  ];
  for (const { name, fields, error, machine, reaches = false } of facts) {
    test(`${name}: ${error}`, () => {
      const { error: got, seen } = single(fields, new Machine(machine));
      assert.equal(got, error);
      assert.equal(seen.length, reaches ? 1 : 0);
    });
  }

  test('payloads of 64 MiB are taken, whatever the other limits are, and larger READs refused', () => {
    const sizeBytes = 65 * MIB;
    const machine = new Machine({ sizeBytes, limits: { maxBytes: MIB } });
    const payload = randomFillSync(Buffer.alloc(64 * MIB));
    machine.feed(request({ type: CMD.write, cookie: 1n, offset: 1, length: payload.length }));
    for (let at = 0; at < payload.length; at += 65_536) machine.feed(payload.subarray(at, at + 65_536));
    machine.settle();
    machine.feed(request({ type: CMD.read, cookie: 2n, offset: 1, length: payload.length }));
    machine.settle();
    machine.feed(read(3n, 64 * MIB + 1));
    machine.settle();
    assert.deepEqual(machine.errors(), { 1: 0, 2: 0, 3: EINVAL });
    assert.ok(machine.replies()[1]?.data.equals(payload));
    machine.dispose();
  });

  test('a WRITE over 64 MiB is drained and refused, without memory; over 128 MiB it ends the connection', () => {
    const machine = new Machine({ sizeBytes: 2 ** 28 });
    machine.feed(request({ type: CMD.write, cookie: 1n, length: 64 * MIB + 1 }));
    const piece = Buffer.alloc(MIB);
    for (let i = 0; i < 64; i++) machine.feed(piece);
    assert.equal(machine.pool.outstanding, INLETS);
    machine.flush();
    assert.deepEqual(machine.errors(), {});
    machine.feed(piece.subarray(0, 1), request({ type: CMD.flush, cookie: 2n }));
    machine.settle();
    assert.deepEqual(machine.errors(), { 1: EINVAL, 2: 0 });
    machine.feed(request({ type: CMD.write, cookie: 3n, length: 128 * MIB + 1 }));
    assert.match(machine.transmission.problem, /WRITE of 134217729 bytes/);
    machine.dispose();
  });

  test('bytes that are no request end the connection, after what was accepted is answered', () => {
    const machine = new Machine();
    machine.feed(
      request({ type: CMD.read, cookie: 1n, length: 10 }),
      request({ type: CMD.read, cookie: 2n, length: 10, magic: 0x25609514 }),
      request({ type: CMD.read, cookie: 3n, length: 10 }),
    );
    assert.match(machine.transmission.problem, /magic: 0x25609514/);
    assert.ok(machine.transmission.stopped && !machine.transmission.idle);
    machine.settle();
    assert.deepEqual(machine.errors(), { 1: 0 });
    assert.ok(machine.transmission.idle);
    machine.dispose();
  });

  test('DISC and the end of the stream let what was accepted finish; a cut request is dropped', () => {
    const cut = request({ type: CMD.write, cookie: 9n, payload: Buffer.alloc(100) });
    for (const length of [1, 27, 28, 29, 127]) {
      const machine = new Machine();
      for (let i = 1n; i <= 8n; i++) machine.feed(request({ type: CMD.read, cookie: i, offset: i, length: 50 }));
      machine.feed(cut.subarray(0, length));
      machine.transmission.end();
      assert.ok(machine.transmission.stopped && !machine.transmission.idle);
      machine.settle();
      assert.equal(machine.replies().length, 8);
      assert.ok(machine.transmission.idle);
      assert.equal(machine.pool.outstanding, INLETS, 'what came of the cut request was let go');
      machine.dispose();
    }
  });

  test('requests over the limit wait, are not dropped, and survive the end of the stream', () => {
    const machine = new Machine({ limits: { maxRequests: 4 } });
    const all = Array.from({ length: 11 }, (_, i) =>
      request({ type: CMD.read, cookie: BigInt(i), offset: i, length: 20 }),
    );
    machine.feed(Buffer.concat(all));
    machine.transmission.end();
    assert.ok(machine.transmission.holding && !machine.transmission.stopped);
    assert.equal(machine.pending.length, 4);
    machine.turn(1);
    assert.equal(machine.pending.length, 4);
    assert.equal(machine.seen.length, 5);
    machine.settle();
    assert.ok(machine.transmission.stopped && machine.transmission.idle);
    assert.equal(machine.replies().length, 11);
    machine.dispose();
  });

  test('bytes over the limit wait for replies to be taken, and one larger request is served alone', () => {
    const machine = new Machine({ limits: { maxBytes: 10_000 } });
    machine.feed(Buffer.concat([read(1n, 6000), read(2n, 3000), read(3n, 6000), read(4n, 50_000), read(5n, 1)]));
    assert.equal(machine.seen.length, 2);
    machine.finish(machine.pending[0]);
    machine.transmission.proceed();
    assert.equal(machine.seen.length, 2, 'a reply that was not taken still counts');
    machine.turn();
    machine.turn();
    assert.equal(machine.seen.length, 3);
    machine.turn();
    assert.equal(machine.seen.length, 3, 'the large one waits for everything');
    machine.turn();
    assert.equal(machine.seen.length, 4);
    machine.settle();
    assert.equal(machine.replies().length, 5);
    assert.equal(machine.transmission.bytesInFlight, 0);
    machine.dispose();
  });

  test('a client that sends without reading costs no more than the limit', () => {
    const machine = new Machine({ limits: { maxBytes: 100_000 } });
    const bad = request({ type: 99 });
    machine.feed(Buffer.concat(Array<Buffer>(10_000).fill(bad)));
    for (let i = 0; i < 10; i++) machine.transmission.proceed();
    assert.ok(machine.transmission.holding);
    assert.ok(machine.transmission.bytesInFlight <= 100_000);
    assert.ok(machine.pool.outstanding <= 30);
    machine.settle();
    assert.equal(machine.replies().length, 10_000);
    machine.dispose();
  });

  test('a volume that has shrunk is judged by its size now, also for what waited', () => {
    const volume = resizable(new MemoryDevice({ sizeBytes: MIB }));
    const machine = new Machine({ export: makeExport({ volume }), limits: { maxRequests: 1 } });
    machine.feed(Buffer.concat([read(1n, 512, MIB / 2), read(2n, 512, MIB / 2)]));
    volume.sizeBytes = MIB / 2;
    machine.settle();
    machine.feed(read(3n, 512, MIB / 2));
    machine.settle();
    assert.deepEqual(machine.errors(), { 1: 0, 2: EINVAL, 3: EINVAL });
    machine.dispose();
  });

  test('failed commands are answered with their error and no data', () => {
    const machine = new Machine();
    machine.feed(
      request({ type: CMD.read, cookie: 1n, length: 4096 }),
      request({ type: CMD.read, cookie: 2n, length: 4096 }),
      request({ type: CMD.write, cookie: 3n, payload: Buffer.alloc(4096, 1) }),
    );
    machine.finish(machine.pending[0], 5);
    machine.finish(machine.pending[0]);
    machine.finish(machine.pending[0], 28);
    machine.flush();
    assert.deepEqual(machine.errors(), { 1: 5, 2: 0, 3: 28 });
    assert.equal(machine.transmission.bytesInFlight, 0);
    machine.dispose();
  });

  test('replies of one turn are few pieces: neighbours leave together, in whatever order they ended', () => {
    const machine = new Machine();
    for (let i = 0; i < 20; i++)
      machine.feed(request({ type: CMD.read, cookie: BigInt(i), offset: i * 4096, length: 4096 }));
    for (const index of [19, 3, 7, 0, 11, 2, 9, 1]) machine.finish(machine.pending[index % machine.pending.length]);
    while (machine.pending.length > 0) machine.finish(machine.pending.at(-1));
    const pieces: Buffer[] = [];
    machine.transmission.collect(pieces);
    assert.deepEqual(
      pieces.map(({ length }) => length),
      [20 * (4096 + 16)],
    );
    machine.transmission.sent();
    machine.dispose();
  });

  test('a client that vanishes at any point leaves nothing behind', () => {
    const script = Buffer.concat([
      request({ type: CMD.write, cookie: 1n, payload: Buffer.alloc(3000, 1) }),
      request({ type: CMD.read, cookie: 2n, length: 200_000 }),
      request({ type: CMD.read, cookie: 3n, length: 3000 }),
      request({ type: CMD.write, cookie: 4n, offset: 5000, payload: Buffer.alloc(3000, 2) }),
      request({ type: CMD.read, cookie: 5n, length: 3000 }),
    ]);
    for (let at = 0; at <= script.length; at += 37) {
      for (let finished = 0; finished <= 5; finished++) {
        const machine = new Machine({ limits: { maxRequests: 3 } });
        machine.transmission.receive(script.subarray(0, at));
        for (let i = 0; i < finished; i++) if (machine.pending.length > 0) machine.finish(machine.pending.at(-1));
        machine.transmission.proceed();
        // Handed over to a system that never took it.
        if (finished % 2 === 1) machine.transmission.collect([]);
        machine.transmission.abandon();
        machine.dispose();
      }
    }
  });

  test('memory that the system may still look at is not used again; what it has taken is', () => {
    for (const taken of [true, false]) {
      const machine = new Machine();
      machine.feed(read(1n, 4096));
      machine.finish(machine.pending[0]);
      machine.feed(request({ type: CMD.flush, cookie: 2n }));
      machine.finish(machine.pending[0]);
      machine.transmission.collect([]);
      if (taken) machine.transmission.sent();
      machine.dispose();
      assert.equal(machine.pool.idleBytes > INLET_BYTES, taken);
    }
  });

  test('random bytes never crash it, and memory stays bounded', () => {
    const piece = fc.oneof(
      fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
      fc
        .record({
          type: fc.nat(9),
          flags: fc.oneof(fc.constant(0), fc.nat(0xffff)),
          cookie: fc.bigInt(0n, 2n ** 64n - 1n),
          offset: fc.oneof(fc.bigInt(0n, 2n ** 20n), fc.bigInt(0n, 2n ** 64n - 1n)),
          length: fc.oneof(fc.nat(5000), fc.nat(0x7fffffff)),
        })
        .map((fields) => request(fields)),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 20 }), fc.array(fc.integer({ min: 1, max: 40 })), (pieces, cuts) => {
        const machine = new Machine({ limits: { maxRequests: 5, maxBytes: 100_000 } });
        const bytes = Buffer.concat(pieces);
        let at = 0;
        for (const cut of [...cuts, bytes.length]) {
          machine.feed(bytes.subarray(at, at + cut));
          at += cut;
          assert.ok(machine.transmission.requestsInFlight <= 5);
          assert.ok(machine.pool.outstanding < 40);
        }
        machine.transmission.end();
        machine.settle();
        machine.replies();
        machine.dispose();
      }),
      { numRuns: 300 },
    );
  });

  test('random valid commands, cut anywhere and completed in any order, are a Buffer', () => {
    const CELL = 1024;
    const CELLS = 64;
    const step = fc.record({
      /** Distinct, since nothing orders commands in flight that overlap. */
      cells: fc.uniqueArray(fc.nat(CELLS - 1), { minLength: 1, maxLength: 20 }),
      types: fc.array(fc.constantFrom(CMD.read, CMD.write, CMD.write, CMD.writeZeroes, CMD.flush), {
        minLength: 20,
        maxLength: 20,
      }),
      from: fc.nat(CELL - 1),
      length: fc.integer({ min: 1, max: CELL }),
      cut: fc.integer({ min: 1, max: 3000 }),
      order: fc.array(fc.nat(1000), { minLength: 20, maxLength: 20 }),
    });
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 8 }), (steps) => {
        const machine = new Machine({ sizeBytes: CELL * CELLS, limits: { maxRequests: 7, maxBytes: 6000 } });
        const model = Buffer.alloc(CELL * CELLS);
        const expected = new Map<bigint, Buffer>();
        let cookie = 0n;
        for (const { cells, types, from, length, cut, order } of steps) {
          const messages = cells.map((cell, i) => {
            const type = types[i]!;
            const offset = cell * CELL + from;
            const bytes = Math.min(length, CELL - from);
            cookie++;
            if (type === CMD.read) expected.set(cookie, Buffer.from(model.subarray(offset, offset + bytes)));
            if (type === CMD.writeZeroes) model.fill(0, offset, offset + bytes);
            if (type !== CMD.write) return request({ type, cookie, offset, length: bytes });
            const payload = Buffer.alloc(bytes, Number(cookie % 255n) + 1);
            payload.copy(model, offset);
            return request({ type, cookie, offset, payload });
          });
          const stream = Buffer.concat(messages);
          for (let at = 0; at < stream.length; at += cut) machine.feed(stream.subarray(at, at + cut));
          for (let i = 0; machine.pending.length > 0 || machine.transmission.holding; i++) {
            const command = machine.pending[order[i % order.length]! % machine.pending.length];
            if (command !== undefined) machine.finish(command);
            machine.transmission.proceed();
            if (i % 3 === 0) machine.flush();
          }
          machine.flush();
        }
        assert.deepEqual(machine.disk, model);
        const all = machine.replies();
        assert.equal(all.length, Number(cookie));
        for (const reply of all) {
          assert.equal(reply.error, 0);
          const data = expected.get(reply.cookie);
          if (data !== undefined) assert.deepEqual(reply.data, data);
        }
        machine.dispose();
      }),
      { numRuns: 100 },
    );
  });

  test('a cookie is given back as it came', () => {
    fc.assert(
      fc.property(fc.bigInt(0n, 2n ** 64n - 1n), (cookie) => {
        const machine = new Machine();
        machine.feed(request({ type: CMD.flush, cookie }));
        assert.equal(cookieOf(machine.pending[0]!), cookie);
        machine.settle();
        assert.equal(machine.replies()[0]?.cookie, cookie);
        machine.dispose();
      }),
      { numRuns: 50 },
    );
  });
});
