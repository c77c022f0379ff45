/**
 * What a read costs that the block cache answers, next to one that goes to a file on tmpfs:
 *
 *     node bench/cache.ts [--rounds 5] [--seconds 2] [--size MIB] [--directory DIR] [--loads 'r 4096 32 1|…']
 *
 * Four daemons run in turns on the same load, each on a file of the directory, which is to be on tmpfs: `buffered` through the page cache, which for such files is a
 * copy of memory; `direct` past it, by calls; the others direct as well, with a cache that holds all of it, read once before. The table has the medians of I/O per
 * second and of microseconds of the daemon's CPU per I/O, and the ratios of CPU of the cached ones to the two others.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { generator } from './generator.ts';
import { type Served, startOurs } from './servers.ts';

const run = promisify(execFile);
const EXPORT = 'vg/lv0';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '2' },
    size: { type: 'string', default: '128' },
    directory: { type: 'string', default: '/dev/shm' },
    loads: { type: 'string', default: 'r 4096 1 1|r 4096 32 1|r 4096 128 1|r 4096 32 4|r 65536 8 1|w 4096 32 1' },
  },
});
const seconds = Number(values.seconds);
const sizeMiB = Number(values.size);
const blast = generator();

interface Figures {
  readonly iops: number;
  readonly cpu: number;
}

async function measure(server: Served, load: string, forSeconds: number): Promise<Figures> {
  const [mode = '', bytes = '', depth = '', connections = '', ...order] = load.split(' ');
  const words = [server.socket, EXPORT, mode, bytes, depth, String(forSeconds), connections, String(sizeMiB - 8)];
  const before = server.cpu();
  const { stdout } = await run(blast, [...words, ...order]);
  const figure = (name: string): number => Number(new RegExp(`${name}=(-?\\d+)`).exec(stdout)?.[1]);
  if (figure('errors') !== 0) throw new Error(`${server.name}: ${stdout}`);
  return { iops: figure('iops'), cpu: (server.cpu() - before) / (figure('iops') * forSeconds) };
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN;
}

const folder = mkdtempSync(join(values.directory, 'orion-bench-cache-'));
const opened: Served[] = [];
try {
  const common = { engine: 'uring', workers: 0, volumes: 1, stripes: 1 };
  const cache = `cache_size = ${(sizeMiB + 64) * 2 ** 20}\ndirect = true\n`;
  for (const [label, settings] of [
    ['buffered', 'direct = false\n'],
    ['direct', 'direct = true\n'],
    ['writethrough', `${cache}cache_policy = "writethrough"\n`],
    ['writeback', `${cache}cache_policy = "writeback"\n`],
  ] as const) {
    const config = join(folder, `${label}.toml`);
    writeFileSync(config, settings);
    opened.push(await startOurs(folder, sizeMiB, { ...common, flags: ['--config', config], label }));
  }
  // Everything into the cache.
  for (const server of opened) await measure(server, 'r 1048576 8 1 seq', 3);
  const names = ['buffered', 'direct', 'writethrough', 'writeback'];
  process.stdout.write(
    `| load: op bytes depth connections | ${names.join(' | ')} | CPU, cached to buffered | CPU, cached to direct |\n`,
  );
  process.stdout.write('| --- | --- | --- | --- | --- | --- | --- |\n');
  for (const load of values.loads.split('|')) {
    const figures: Figures[][] = names.map(() => []);
    for (let round = -1; round < Number(values.rounds); round++) {
      for (const [i, server] of opened.entries()) {
        const one = await measure(server, load, round < 0 ? 1 : seconds);
        if (round >= 0) figures[i]?.push(one);
      }
    }
    const medians = figures.map((own) => ({
      iops: median(own.map((one) => one.iops)),
      cpu: median(own.map((one) => one.cpu)),
    }));
    const cells = medians.map(({ iops, cpu }) => `${iops.toFixed(0)} / ${cpu.toFixed(2)}`);
    const [buffered = Number.NaN, direct = Number.NaN, ...cached] = medians.map(({ cpu }) => cpu);
    const ratios = [buffered, direct].map((base) => cached.map((cpu) => (cpu / base).toFixed(2)).join(', '));
    process.stdout.write(`| ${load} | ${[...cells, ...ratios].join(' | ')} |\n`);
  }
} finally {
  for (const server of opened) await server.stop();
  rmSync(folder, { recursive: true, force: true });
}
