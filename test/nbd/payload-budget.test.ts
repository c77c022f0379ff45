/** The bound on payload memory over all connections: who waits, in which order, and that nothing stays charged. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { PayloadBudget, RESERVED_BYTES } from '../../src/nbd/payload-budget.ts';
import { Machine } from './machine.ts';
import { CMD, EIO, request } from './wire.ts';

const MIB = 2 ** 20;

function waiter(): { told: number; roomForPayload(): void } {
  return {
    told: 0,
    roomForPayload() {
      this.told++;
    },
  };
}

describe('payload budget', () => {
  test('the first who waits is served first, and only small requests pass', () => {
    const budget = new PayloadBudget(4 * MIB);
    const [a, b, c] = [waiter(), waiter(), waiter()];
    assert.ok(budget.admits(a, 0, 3 * MIB));
    budget.charge(3 * MIB);
    assert.ok(!budget.admits(b, 0, 2 * MIB));
    budget.wait(b);
    assert.ok(!budget.admits(c, 0, MIB), 'it would fit, but b was first');
    budget.wait(c);
    assert.ok(budget.admits(c, 0, RESERVED_BYTES), 'whoever has nothing may have a small one');
    assert.ok(!budget.admits(c, 1, RESERVED_BYTES), 'but only one');
    budget.refund(3 * MIB);
    assert.deepEqual([b.told, c.told], [1, 0]);
    assert.ok(budget.admits(b, 0, 2 * MIB));
    budget.charge(2 * MIB);
    budget.leave(b);
    assert.equal(c.told, 1, 'the next one is told when the first has what it wanted');
    assert.ok(budget.admits(c, 0, MIB));
    budget.leave(c);
    assert.equal(budget.waiting, 0);
  });

  test('what is larger than the whole budget is admitted alone', () => {
    const budget = new PayloadBudget(MIB);
    assert.ok(budget.admits(waiter(), 0, 32 * MIB));
    budget.charge(1);
    assert.ok(!budget.admits(waiter(), 0, 32 * MIB));
  });
});

describe('connections that share a budget', () => {
  test('who comes over his own limit while he waits leaves his place to the others', () => {
    const budget = new PayloadBudget(4 * MIB);
    const sizeBytes = 8 * MIB;
    const full = new Machine({ budget, sizeBytes });
    const one = new Machine({ budget, limits: { maxBytes: MIB }, features: { structuredReplies: true } });
    const two = new Machine({ budget, sizeBytes });
    full.feed(request({ type: CMD.read, cookie: 1n, length: 3.5 * MIB }));
    one.feed(request({ type: CMD.trim, cookie: 1n, length: 4096 }));
    one.feed(request({ type: CMD.read, cookie: 2n, length: MIB - 2 * one.transmission.bytesInFlight }));
    two.feed(request({ type: CMD.read, cookie: 1n, length: 2 * MIB }));
    assert.equal(budget.waiting, 2);
    // Its answer has a text, and is not taken.
    one.finish(one.pending[0], EIO);
    one.transmission.collect([]);
    full.transmission.abandon();
    full.finish(full.pending[0]);
    one.transmission.proceed();
    assert.ok(one.transmission.holding);
    assert.equal(two.told, 1);
    two.transmission.proceed();
    assert.ok(!two.transmission.holding, 'it waits for a client that takes nothing');
    assert.equal(budget.waiting, 0);
  });

  test('one that waits goes on when another is answered, or is gone', () => {
    for (const end of ['answered', 'gone'] as const) {
      const budget = new PayloadBudget(MIB);
      const [one, two] = [new Machine({ budget }), new Machine({ budget })];
      one.feed(request({ type: CMD.read, cookie: 1n, length: MIB - 1000 }));
      two.feed(request({ type: CMD.read, cookie: 2n, length: MIB / 2 }));
      assert.deepEqual([one.pending.length, two.pending.length], [1, 0]);
      assert.ok(two.transmission.holding);
      if (end === 'answered') {
        one.settle();
      } else {
        one.dispose();
      }
      assert.equal(two.told, 1);
      two.turn();
      assert.equal(two.pending.length, 1);
      two.settle();
      assert.equal(two.replies().length, 1);
      two.dispose();
      if (end === 'answered') one.dispose();
      assert.deepEqual([budget.used, budget.waiting], [0, 0]);
    }
  });

  test('one that leaves while it waits does not hold up the next', () => {
    const budget = new PayloadBudget(MIB);
    const machines = [new Machine({ budget }), new Machine({ budget }), new Machine({ budget })] as const;
    const [one, two, three] = machines;
    one.feed(request({ type: CMD.read, length: MIB - 1000 }));
    two.feed(request({ type: CMD.read, length: MIB / 2 }));
    three.feed(request({ type: CMD.read, length: MIB / 2 }));
    two.dispose();
    one.settle();
    assert.ok(three.told > 0);
    three.turn();
    assert.equal(three.pending.length, 1);
    three.settle();
    for (const machine of [one, three]) machine.dispose();
    assert.deepEqual([budget.used, budget.waiting], [0, 0]);
  });

  test('whatever they do, the bound holds, all are answered, and nothing stays charged', () => {
    const step = fc.record({
      who: fc.nat(2),
      kind: fc.constantFrom('read', 'write', 'part', 'finish', 'gone'),
      bytes: fc.integer({ min: 1, max: MIB / 2 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const budget = new PayloadBudget(MIB);
        const machines = [0, 1, 2].map(() => new Machine({ budget }));
        const asked = [0, 0, 0];
        const ended = [false, false, false];
        for (const { who, kind, bytes } of steps) {
          const machine = machines[who]!;
          const stuck = ended[who] === true || machine.transmission.holding;
          if (kind === 'finish') {
            machine.turn();
          } else if (kind === 'gone') {
            if (ended[who] === false) machine.dispose();
            ended[who] = true;
          } else if (!stuck && kind === 'part') {
            machine.feed(request({ type: CMD.write, payload: Buffer.alloc(bytes) }).subarray(0, 28 + bytes / 2));
            machine.transmission.end();
          } else if (!stuck && !machine.transmission.stopped) {
            const fields = kind === 'read' ? { length: bytes } : { payload: Buffer.alloc(bytes) };
            const cookie = BigInt(++asked[who]!);
            machine.feed(request({ type: CMD[kind === 'read' ? 'read' : 'write'], cookie, ...fields }));
          }
          assert.ok(budget.used <= MIB + 3 * (RESERVED_BYTES + 32), `${budget.used}`);
        }
        // Each turn of all of them lets at least the first who waits go on.
        for (let round = 0; round <= steps.length; round++) {
          for (const [i, machine] of machines.entries()) if (ended[i] === false) machine.turn();
        }
        for (const [i, machine] of machines.entries()) {
          if (ended[i] === true) continue;
          assert.equal(machine.replies().length, asked[i]);
          machine.dispose();
        }
        assert.deepEqual([budget.used, budget.waiting], [0, 0]);
      }),
      { numRuns: 300 },
    );
  });
});
