/**
 * The whole daemon against other NBD servers, on the same kind of backing, in alternating rounds:
 *
 *     npm run bench -- [--rounds 3] [--seconds 2] [--size MIB] [--directory DIR] [--engine uring] [--workers 2]
 *                      [--peers nbdkit,qemu-nbd,nbd-server] [--against CHECKOUT] [--loads 'r 4096 32 1|…'] [--only main|scale|stripes]
 *
 * A load is: perhaps "fio" (its nbd engine, instead of nbdblast), r or w, bytes, depth of each connection, connections, and perhaps
 * "seq". For each server the table has the medians of I/O per second, p50 and p99 in microseconds and microseconds of the server's CPU
 * per I/O; and how ours compares with the best peer. Only figures of one run may be compared: the machine's other work changes all of
 * them.
 *
 * The load generator is `nbdblast` from PATH, or is built from ../shared/bench/nbdblast.c.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { generator } from './generator.ts';
import { type Figures, hasFio, measure } from './load.ts';
import { type Served, startOurs, startPeers } from './servers.ts';

const run = promisify(execFile);
const LOADS = [
  'r 4096 1 1',
  'w 4096 1 1',
  'r 4096 32 1',
  'r 4096 128 1',
  'r 4096 32 4',
  'r 4096 128 4',
  'w 4096 32 1',
  'w 4096 128 1',
  'w 4096 32 4',
  'w 4096 128 4',
  'r 1048576 8 1 seq',
  'w 1048576 8 1 seq',
];
/** Where fio has an engine for NBD. */
const FIO_LOADS = ['fio r 4096 1 1', 'fio r 4096 32 1', 'fio w 4096 32 1', 'fio r 4096 32 4', 'fio w 4096 32 4'];

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '2' },
    size: { type: 'string', default: '512' },
    directory: { type: 'string', default: '/dev/shm' },
    engine: { type: 'string', default: 'uring' },
    workers: { type: 'string', default: '2' },
    peers: { type: 'string', default: 'nbdkit,qemu-nbd,nbd-server' },
    against: { type: 'string', default: '' },
    loads: { type: 'string', default: [...LOADS, ...(hasFio() ? FIO_LOADS : [])].join('|') },
    only: { type: 'string', default: '' },
  },
});
const rounds = Number(values.rounds);
const seconds = Number(values.seconds);
const sizeMiB = Number(values.size);
const blast = generator();

function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

function medians(all: readonly Figures[]): Figures {
  const of = (pick: (figures: Figures) => number): number => median(all.map(pick));
  return { iops: of((f) => f.iops), p50: of((f) => f.p50), p99: of((f) => f.p99), cpu: of((f) => f.cpu) };
}

function cell({ iops, p50, p99, cpu }: Figures): string {
  return `${iops.toFixed(0)} / ${p50} / ${p99} / ${cpu.toFixed(cpu < 100 ? 2 : 0)}`;
}

/** I/O per second and CPU per I/O as ratios to the best peer's, p50 as a difference. */
function ratios(mine: Figures, peers: readonly Figures[]): string {
  if (peers.length === 0) return '';
  const iops = mine.iops / Math.max(...peers.map((peer) => peer.iops));
  const cpu = mine.cpu / Math.min(...peers.map((peer) => peer.cpu));
  const p50 = mine.p50 - Math.min(...peers.map((peer) => peer.p50));
  return `${iops.toFixed(2)}x / ${cpu.toFixed(2)} / ${p50 > 0 ? '+' : ''}${p50}`;
}

async function compare(servers: readonly Served[]): Promise<void> {
  const loads = values.loads.split('|');
  const results = new Map<string, Figures[]>();
  // A round that nobody counts: everybody's caches, and our compiler, get warm.
  for (let round = -1; round < rounds; round++) {
    for (const load of loads) {
      for (const server of servers) {
        const figures = await measure(server, load, { seconds, spanMiB: sizeMiB - 8 });
        if (round >= 0)
          results.set(`${load} ${server.name}`, [...(results.get(`${load} ${server.name}`) ?? []), figures]);
      }
    }
  }
  const names = servers.map(({ name }) => name);
  print([['load: op bytes depth connections', ...names, 'ours to the best peer'], names.map(() => '---')]);
  for (const load of loads) {
    const [mine, ...others] = names.map((name) => medians(results.get(`${load} ${name}`) ?? []));
    if (mine !== undefined) print([[load, cell(mine), ...others.map(cell), ratios(mine, others)]]);
  }
}

function print(rows: readonly (readonly string[])[]): void {
  for (const row of rows) {
    const isRule = row.every((text) => text === '---');
    process.stdout.write(`| ${(isRule ? ['---', ...row, '---'] : row).join(' | ')} |\n`);
  }
}

/** Four connections to four volumes, on one worker and on four. The generator's own share is measured as its CPU time. */
async function scale(directory: string): Promise<void> {
  for (const workers of [1, 4]) {
    const server = await startOurs(directory, 128, { engine: values.engine, workers, volumes: 4, stripes: 1 });
    for (const load of ['r', 'w']) {
      const figures: { iops: number; cpu: number }[] = [];
      for (let round = 0; round <= rounds; round++) {
        const before = server.cpu();
        const words = ['4096', '32', String(seconds), '1', '120'];
        const all = await Promise.all(
          server.exportNames.map((name) => run(blast, [server.socket, name, load, ...words])),
        );
        const iops = all.reduce((sum, { stdout }) => sum + Number(/iops=(\d+)/.exec(stdout)?.[1]), 0);
        if (round > 0) figures.push({ iops, cpu: (server.cpu() - before) / (iops * seconds) });
      }
      const total = median(figures.map(({ iops }) => iops));
      const cpu = median(figures.map((one) => one.cpu));
      print([
        [`${load} 4096 32, 4 volumes, ${workers} worker(s)`, total.toFixed(0), `${cpu.toFixed(2)} us CPU per I/O`],
      ]);
    }
    await server.stop();
  }
}

/** One volume on one file, and one striped over four. */
async function stripes(directory: string): Promise<void> {
  const both: Served[] = [];
  for (const count of [1, 4]) {
    both.push(await startOurs(directory, 128, { engine: values.engine, workers: 0, volumes: 1, stripes: count }));
  }
  for (const load of ['r 4096 32 1', 'w 4096 32 1', 'r 4096 128 1']) {
    const figures = both.map((): number[] => []);
    for (let round = 0; round <= rounds; round++) {
      for (const [i, server] of both.entries()) {
        const [mode = '', bytes = '', depth = '', connections = ''] = load.split(' ');
        const before = server.cpu();
        const words = [server.socket, 'vg/lv0', mode, bytes, depth, String(seconds), connections, '120'];
        const { stdout } = await run(blast, words);
        const iops = Number(/iops=(\d+)/.exec(stdout)?.[1]);
        if (round > 0) figures[i]?.push((server.cpu() - before) / (iops * seconds));
      }
    }
    const [linear = 0, striped = 0] = figures.map(median);
    const ratio = (striped / linear).toFixed(2);
    print([[load, `linear ${linear.toFixed(2)}`, `4 stripes ${striped.toFixed(2)} us CPU per I/O`, ratio]]);
  }
  for (const server of both) await server.stop();
}

/** The daemon of another checkout, by which to see what a change has changed. */
function startOther(checkout: string): Promise<Served> {
  const { engine, workers } = values;
  const options = { engine, workers: Number(workers), volumes: 1, stripes: 1, checkout, label: 'other' };
  return startOurs(directory, sizeMiB, options);
}

const directory = mkdtempSync(join(values.directory, 'orion-bench-'));
const running: Served[] = [];
try {
  if (values.only === '' || values.only === 'main') {
    const { engine } = values;
    running.push(
      await startOurs(directory, sizeMiB, { engine, workers: Number(values.workers), volumes: 1, stripes: 1 }),
    );
    if (values.against !== '') running.push(await startOther(values.against));
    running.push(...(await startPeers(directory, sizeMiB, values.peers.split(',').filter(Boolean))));
    process.stdout.write('I/O per second / p50 us / p99 us / server CPU us per I/O\n');
    await compare(running);
    for (const server of running.splice(0)) await server.stop();
  }
  if (values.only === '' || values.only === 'scale') await scale(directory);
  if (values.only === '' || values.only === 'stripes') await stripes(directory);
} finally {
  for (const server of running) await server.stop();
  rmSync(directory, { recursive: true });
}
