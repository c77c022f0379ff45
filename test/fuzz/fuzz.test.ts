/**
 * The fuzzer for a bounded time: the corpus, and what some seconds more of it find. `npm run fuzz` goes on for longer, and
 * ORION_LVM_FUZZ_SEED has a failing run again.
 */
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { describe, test } from 'node:test';
import { fuzz, readCorpus } from './fuzz.ts';
import { play } from './target.ts';

const MILLISECONDS = 15_000;

describe('fuzzer', () => {
  test('the corpus has conversations of both phases', async () => {
    const corpus = await readCorpus();
    assert.ok(corpus.length > 0);
    const ends = new Set<string>();
    for (const input of corpus) ends.add((await play(input, 1)).end);
    assert.deepEqual([...ends].toSorted(), ['handshake', 'transmission']);
  });

  test('nothing breaks the server', async (context) => {
    const seed = Number(process.env['ORION_LVM_FUZZ_SEED'] ?? randomInt(2 ** 32 - 1));
    const { conversations, inTransmission, requests, covered } = await fuzz(seed, MILLISECONDS);
    context.diagnostic(
      `seed ${seed}: ${conversations} conversations, ${inTransmission} with an export, ${requests} requests, ${covered} lines of code`,
    );
    assert.ok(inTransmission > 0 && requests > 0);
  });
});
