/**
 * What counting costs, as a share of the daemon's CPU per request:
 *
 *     node bench/counters.ts [--depths 1,32,128] [--pairs 8] [--rounds 8] [--seconds 0.5] [--directory DIR]
 *
 * Differences of one or two per cent of a whole daemon drown in what a busy machine does to its system calls. So what counting adds is
 * measured where nothing else happens: our part of the data path with counters and clock, and without (bench/uncounted.ts), each
 * the least of many rounds, in processes that take turns, for the compiler's luck differs from one to the next; the median of these pairs
 * counts. What the daemon uses in all for a request is measured at the same depth over one connection on tmpfs: the least of its
 * rounds, by the scheduler's account. At a depth of N, requests come in turns of N, which is what the daemon shows.
 */
import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { generator } from './generator.ts';
import { type Served, startOurs } from './servers.ts';

const run = promisify(execFile);
const PATH = fileURLToPath(new URL('counted-path.ts', import.meta.url));
const UNCOUNTED = fileURLToPath(new URL('uncounted.ts', import.meta.url));
const SIZE_MIB = 64;

const { values } = parseArgs({
  options: {
    depths: { type: 'string', default: '1,32,128' },
    pairs: { type: 'string', default: '8' },
    rounds: { type: 'string', default: '8' },
    seconds: { type: 'string', default: '0.5' },
    directory: { type: 'string', default: '/dev/shm' },
  },
});
const depths = values.depths.split(',').map(Number);

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN;
}

/** Nanoseconds of a request through our part. */
function ownPart(depth: number, counted: boolean): number {
  const preload = counted ? [] : ['--import', UNCOUNTED];
  return Number(execFileSync(process.execPath, [...preload, PATH, String(depth)], { encoding: 'utf8' }));
}

/** Nanoseconds that counting adds to a request. */
function added(depth: number): number {
  const differences: number[] = [];
  for (let pair = 0; pair < Number(values.pairs); pair++) {
    const [first, second] = [ownPart(depth, pair % 2 === 0), ownPart(depth, pair % 2 !== 0)];
    differences.push(pair % 2 === 0 ? first - second : second - first);
  }
  return median(differences);
}

function children(): readonly number[] {
  return readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
}

/** Nanoseconds that the threads of a process have run, as far as they live. */
function cpuOf(pid: number): number {
  return readdirSync(`/proc/${pid}/task`).reduce((sum, thread) => {
    const [ran = '0'] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ', 1);
    return sum + Number(ran);
  }, 0);
}

/** Nanoseconds of the daemon's CPU for a read of 4 KiB. */
async function whole({ socket }: Served, pid: number, depth: number): Promise<number> {
  const words = [socket, 'vg/lv0', 'r', '4096', String(depth), values.seconds, '1', String(SIZE_MIB - 8)];
  let least = Infinity;
  for (let round = 0; round < Number(values.rounds); round++) {
    const before = cpuOf(pid);
    const { stdout } = await run(blast, words);
    const requests = Number(/iops=(\d+)/.exec(stdout)?.[1]) * Number(values.seconds);
    least = Math.min(least, (cpuOf(pid) - before) / requests);
  }
  return least;
}

const blast = generator();
const directory = mkdtempSync(join(values.directory, 'orion-counters-'));
const before = new Set(children());
const server = await startOurs(directory, SIZE_MIB, { engine: 'uring', workers: 0, volumes: 1, stripes: 1 });
try {
  const pid = children().find((child) => !before.has(child));
  if (pid === undefined) throw new Error('the daemon is no child of this process');
  process.stdout.write('| depth | counting adds | the daemon uses in all | share |\n| --- | --- | --- | --- |\n');
  for (const depth of depths) {
    const [counting, all] = [added(depth), await whole(server, pid, depth)];
    const share = ((counting / all) * 100).toFixed(1);
    process.stdout.write(`| ${depth} | ${counting.toFixed(0)} ns | ${all.toFixed(0)} ns | ${share} % |\n`);
  }
} finally {
  await server.stop();
  rmSync(directory, { recursive: true });
}
