/**
 * The fuzzer: plays conversations that nobody would have, keeps those that reach code which none before them reached, and goes on from
 * them. `node test/fuzz/fuzz.ts --seconds 600` runs it by itself and adds what it found to the corpus; the test runs it for some seconds.
 *
 * Invariants
 *  - Everything follows from the seed and the corpus but the number of rounds, which follows from the time.
 *  - What fails is told with its seed and as bytes, after what can be left out of it has been left out.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { appendFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Coverage } from './coverage.ts';
import { conversation } from './grammar.ts';
import { mutate } from './mutate.ts';
import { Random } from './random.ts';
import { play } from './target.ts';

const CORPUS = join(import.meta.dirname, 'corpus.hex');
/** Conversations between two looks at the coverage, which cost some milliseconds. */
const BATCH = 40;
/** Conversations longer than this are not kept: others reach the same in less. */
const MAX_KEPT = 4096;

export interface FuzzResult {
  readonly conversations: number;
  readonly inTransmission: number;
  readonly requests: number;
  /** Inputs that reached something new, beyond the corpus. */
  readonly found: readonly Buffer[];
  /** Lines of the code that ran. */
  readonly covered: number;
}

/** Conversations that each reached something: one a line, as hexadecimal digits. */
export async function readCorpus(): Promise<Buffer[]> {
  const text = existsSync(CORPUS) ? await readFile(CORPUS, 'latin1') : '';
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => Buffer.from(line, 'hex'));
}

/** Fuzzes for `milliseconds`, from `seed`. Rejects with the first thing that is wrong. */
export async function fuzz(seed: number, milliseconds: number): Promise<FuzzResult> {
  const random = new Random(seed);
  const corpus = await readCorpus();
  const found: Buffer[] = [];
  const sums = { conversations: 0, inTransmission: 0, requests: 0 };
  const one = async (input: Buffer, inputSeed: number): Promise<void> => {
    const played = await checked(input, inputSeed, seed);
    sums.conversations++;
    if (played.end === 'transmission') sums.inTransmission++;
    sums.requests += played.requests;
  };
  const coverage = await Coverage.start();
  try {
    for (const input of corpus) await one(input, seedOf(input));
    await coverage.fresh(true);
    const end = performance.now() + milliseconds;
    while (performance.now() < end) {
      const batch = Array.from({ length: BATCH }, () => next(corpus, random));
      for (const input of batch) await one(input, seedOf(input));
      if ((await coverage.fresh(false)) === 0) continue;
      for (const input of batch) {
        await one(input, seedOf(input));
        if ((await coverage.fresh(true)) === 0 || input.length > MAX_KEPT) continue;
        corpus.push(input);
        found.push(input);
      }
    }
    return { ...sums, found, covered: coverage.size };
  } finally {
    await coverage.stop();
  }
}

function next(corpus: readonly Buffer[], random: Random): Buffer {
  const fresh = conversation(random);
  if (corpus.length === 0 || random.once(4))
    return random.once(2) ? fresh : mutate(fresh, conversation(random), random);
  return mutate(random.pick(corpus), random.once(2) ? fresh : random.pick(corpus), random);
}

/** How an input is cut and timed: by itself, so that the corpus needs no more than bytes. */
function seedOf(input: Buffer): number {
  return createHash('sha256').update(input).digest().readUInt32BE(0);
}

async function checked(input: Buffer, inputSeed: number, seed: number): Promise<Awaited<ReturnType<typeof play>>> {
  try {
    return await play(input, inputSeed);
  } catch (error) {
    const small = await smaller(input, inputSeed);
    const text = `fuzzer seed ${seed}, conversation seed ${inputSeed}, ${small.length} bytes:\n${small.toString('hex')}`;
    throw new Error(text, { cause: error });
  }
}

/** Leaves out of a failing input what can be left out. */
async function smaller(input: Buffer, seed: number): Promise<Buffer> {
  let best = input;
  for (let size = Math.ceil(input.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let at = 0; at < best.length && best.length / size < 400;) {
      const candidate = Buffer.concat([best.subarray(0, at), best.subarray(at + size)]);
      if (await fails(candidate, seed)) best = candidate;
      else at += size;
    }
  }
  return best;
}

async function fails(input: Buffer, seed: number): Promise<boolean> {
  try {
    await play(input, seed);
    return false;
  } catch {
    return true;
  }
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '600' },
      seed: { type: 'string', default: String(Date.now() % 2 ** 32) },
    },
  });
  const result = await fuzz(Number(values.seed), Number(values.seconds) * 1000);
  await appendFile(CORPUS, result.found.map((input) => `${input.toString('hex')}\n`).join(''));
  const { conversations, inTransmission, requests, covered, found } = result;
  process.stdout.write(
    `seed ${values.seed}: ${conversations} conversations, ${inTransmission} of them with an export, ${requests} requests, ` +
      `${covered} lines of code, ${found.length} new inputs kept\n`,
  );
}
