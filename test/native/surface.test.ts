/** Whatever JavaScript calls the addon with, in whatever order and wherever: exceptions, and never the end of the process. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const SCRIPT = fileURLToPath(new URL('surface-calls.ts', import.meta.url));
/** Two that are always the same, and one that is not; a failure names it. */
const SEEDS = [1, 2, Math.floor(Math.random() * 2 ** 31)];
const ROUNDS = 150;

/** Threads with calls of their own, each ended after some rounds, or by itself. */
const IN_THREADS = `
  const { Worker } = await import('node:worker_threads');
  const [script, seed, folder] = process.argv.slice(1);
  const ends = Array.from({ length: 4 }, async (_, i) => {
    const done = new Int32Array(new SharedArrayBuffer(4));
    const worker = new Worker(script, { execArgv: [], trackUnmanagedFds: false, workerData: { seed: Number(seed) + i, rounds: 40, folder, done } });
    const end = new Promise((resolve, reject) => worker.on('error', reject).on('exit', resolve));
    worker.on('exit', () => Atomics.store(done, 0, 1000) && Atomics.notify(done, 0));
    for (let seen; (seen = Atomics.load(done, 0)) < 12 * i + 1; ) await Atomics.waitAsync(done, 0, seen).value;
    await worker.terminate();
    await end;
  });
  await Promise.all(ends);`;

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'orion-surface-'));
});
after(() => rm(folder, { recursive: true }));

async function endsWell(seed: number, words: readonly string[]): Promise<void> {
  const child = spawn(process.execPath, words, { stdio: ['ignore', 'ignore', 'pipe'] });
  let errors = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  assert.deepEqual({ code, signal, errors }, { code: 0, signal: null, errors: '' }, `seed ${seed}`);
}

describe('calls at random', () => {
  for (const seed of SEEDS) {
    test(`in a process (seed ${seed})`, () => endsWell(seed, [SCRIPT, `${seed}`, `${ROUNDS}`, folder]));
    test(`in threads that are ended (seed ${seed})`, () =>
      endsWell(seed, ['--input-type=module', '-e', IN_THREADS, '--', SCRIPT, `${seed}`, folder]));
  }
});
