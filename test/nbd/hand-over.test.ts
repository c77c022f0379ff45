/** A connection that goes on in another machine with what the first one had read: wherever its stream is cut, nothing is lost or done twice. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { describe, test } from 'node:test';
import type { Features } from '../../src/nbd/features.ts';
import { Machine } from './machine.ts';
import { CMD, extendedRequest, request } from './wire.ts';

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
