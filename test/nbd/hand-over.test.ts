/** A connection that goes on in another machine with what the first one had read: wherever its stream is cut, nothing is lost or done twice. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { describe, test } from 'node:test';
import type { Features } from '../../src/nbd/features.ts';
import { PayloadBudget } from '../../src/nbd/payload-budget.ts';
import { Machine } from './machine.ts';
import { CMD, extendedRequest, request, type Request } from './wire.ts';

const EXTENDED: Features = { structuredReplies: true, extendedHeaders: true, contexts: [] };

function flushOf(index: number): { readonly type: number; readonly cookie: bigint; readonly offset: number } {
  return { type: CMD.flush, cookie: BigInt(100 + index), offset: 0 };
}

/** WRITEs of many lengths, in place and in buffers of their own, with flushes between. */
function stream(extended: boolean): Buffer {
  const make = extended ? extendedRequest : request;
  return Buffer.concat(
    [512, 4096, 70_000, 1, 300_000].flatMap((length, index) => [
      make({ type: CMD.write, cookie: BigInt(index), offset: index * 1000, payload: Buffer.alloc(length, index + 1) }),
      extended ? extendedRequest(flushOf(index)) : request(flushOf(index)),
    ]),
  );
}

/** Commands of all kinds, good and bad, none of which has a payload that is refused. */
function crowded(extended: boolean): Buffer {
  const make = (fields: Request): Buffer => (extended ? extendedRequest(fields) : request(fields));
  const odd = { flags: 0x5a00, type: CMD.read, cookie: 2n ** 64n - 1n, offset: 2n ** 64n - 513n };
  return Buffer.concat([
    ...Array.from({ length: 12 }, (_, index) => [
      make({ type: CMD.read, cookie: BigInt(index), offset: index * 4096, length: 2500 }),
      make({ type: CMD.write, offset: index * 1000, payload: Buffer.alloc(1500, index + 1) }),
      make({ type: CMD.trim, offset: 8192, length: 4096 }),
      make({ ...odd, length: 0xffff_fff1 }),
      make({ type: 77, cookie: 5n, offset: 2n ** 53n + 1n, length: 3 }),
      ...(extended ? [extendedRequest({ ...odd, type: CMD.cache, length: 2n ** 64n - 3n })] : []),
    ]).flat(),
    make({ type: CMD.write, offset: 5, payload: Buffer.alloc(100_000, 7) }),
    make({ type: CMD.flush, offset: 0 }),
  ]);
}

for (const features of [undefined, EXTENDED]) {
  describe(features === undefined ? 'plain requests' : 'extended headers', () => {
    test('go on wherever the stream is cut', () => {
      const bytes = stream(features !== undefined);
      const whole = new Machine(features === undefined ? {} : { features });
      whole.feed(bytes);
      whole.settle();
      fc.assert(
        fc.property(fc.array(fc.nat(bytes.length), { minLength: 1, maxLength: 4 }), (places) => {
          const cuts = [...new Set([...places, bytes.length])].sort((a, b) => a - b);
          const seen: string[] = [];
          let from = 0;
          let left = Buffer.alloc(0);
          let disk = Buffer.alloc(whole.disk.length);
          for (const cut of cuts) {
            const machine = new Machine(features === undefined ? {} : { features });
            disk.copy(machine.disk);
            machine.feed(...[left, bytes.subarray(from, cut)].filter(({ length }) => length > 0));
            machine.settle();
            assert.ok(machine.transmission.idle);
            const unparsed = machine.transmission.unparsed();
            assert.ok(unparsed !== null);
            left = Buffer.from(unparsed);
            seen.push(...machine.seen);
            disk = Buffer.from(machine.disk);
            machine.dispose();
            from = cut;
          }
          assert.equal(left.length, 0);
          assert.deepEqual(seen, whole.seen);
          assert.ok(disk.equals(whole.disk));
        }),
        { numRuns: 60 },
      );
      whole.dispose();
    });

    test('goes on with what the limits held back, byte by byte, however often it is moved', () => {
      const isExtended = features !== undefined;
      const options = { limits: { maxRequests: 3, maxBytes: 6000 }, ...(isExtended ? { features } : {}) };
      const bytes = crowded(isExtended);
      const whole = new Machine(isExtended ? { features } : {});
      whole.feed(bytes);
      whole.settle();
      fc.assert(
        fc.property(fc.array(fc.nat(bytes.length), { maxLength: 6 }), (places) => {
          const cuts = [...places.sort((a, b) => a - b), bytes.length];
          const seen: string[] = [];
          let from = 0;
          let left: Buffer = Buffer.alloc(0);
          let disk: Buffer = Buffer.alloc(whole.disk.length);
          // One more round for what is held in the last one, until nothing is.
          for (let round = 0; round < cuts.length || left.length > 0; round++) {
            const cut = cuts[round] ?? bytes.length;
            const machine = new Machine(options);
            disk.copy(machine.disk);
            // Then the longest command has to wait: it must be alone.
            if (round % 2 === 0) machine.transmission.owe(100);
            machine.transmission.receive(Buffer.concat([left, bytes.subarray(from, cut)]));
            while (machine.pending.length > 0) machine.finish(machine.pending[0]);
            machine.transmission.collect([]);
            assert.ok(machine.transmission.still);
            const unparsed = machine.transmission.unparsed();
            assert.ok(unparsed !== null);
            left = unparsed;
            assert.ok(left.equals(bytes.subarray(cut - left.length, cut)), 'as it came');
            seen.push(...machine.seen);
            disk = Buffer.from(machine.disk);
            machine.dispose();
            assert.equal(machine.budget.used, 0);
            from = cut;
          }
          assert.deepEqual(seen, whole.seen);
          assert.ok(disk.equals(whole.disk));
        }),
        { numRuns: 60 },
      );
      whole.dispose();
    });

    test('can’t go on in the middle of a WRITE that is refused', () => {
      const make = features === undefined ? request : extendedRequest;
      const machine = new Machine(features === undefined ? {} : { features });
      const payload = Buffer.alloc(100_000);
      machine.feed(make({ type: CMD.write, offset: 2 ** 30, payload }).subarray(0, 5000));
      machine.settle();
      assert.equal(machine.transmission.unparsed(), null);
      machine.dispose();
    });
  });
}

test('what the client is owed counts until it has taken it: nothing is accepted for which there is no room', () => {
  const machine = new Machine({ limits: { maxBytes: 10_000 } });
  machine.transmission.owe(9000);
  assert.equal(machine.budget.used, 9000);
  machine.feed(request({ type: CMD.read, length: 4096 }));
  assert.ok(machine.transmission.holding && !machine.transmission.idle);
  machine.transmission.paid();
  assert.equal(machine.transmission.bytesInFlight, 0);
  machine.settle();
  assert.equal(machine.replies().length, 1);
  assert.ok(machine.transmission.idle);
  machine.dispose();
});

test('what the client is owed is forgotten with it', () => {
  const machine = new Machine();
  machine.transmission.owe(9000);
  machine.feed(request({ type: CMD.read, length: 4096 }));
  machine.transmission.abandon();
  assert.equal(machine.budget.used, 9000 + 4096 + 16);
  machine.dispose();
  machine.transmission.paid();
  assert.equal(machine.budget.used, 0);
});

test('who stands still gives others the place in the queue for memory', () => {
  const budget = new PayloadBudget(300_000);
  const [first, second, third] = [0, 1, 2].map(() => new Machine({ budget, sizeBytes: 2 ** 20 }));
  assert.ok(first !== undefined && second !== undefined && third !== undefined);
  first.feed(request({ type: CMD.read, length: 290_000 }));
  second.feed(request({ type: CMD.read, length: 1 }), request({ type: CMD.read, length: 200_000 }));
  third.feed(request({ type: CMD.read, length: 1 }), request({ type: CMD.read, length: 200_000 }));
  assert.deepEqual([second.transmission.holding, third.transmission.holding], [true, true]);
  second.transmission.standBack();
  first.settle();
  third.transmission.proceed();
  assert.equal(third.transmission.holding, false);
  third.settle();
  second.settle();
  for (const machine of [first, second, third]) machine.dispose();
});
