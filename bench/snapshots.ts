/**
 * What COW snapshots cost, through the whole daemon, on tmpfs:
 *
 *     node bench/snapshots.ts [copied] [first] [kernel] [create] [--rounds 12] [--seconds 1] [--creations 20]
 *         [--depths 1,32,128] [--directory DIR] [--timeout SECONDS] [--kernel-rounds 1]
 *
 *  - copied   CPU per random 4 KiB write to an origin whose chunks are all copied already, beside a volume without snapshots: rounds in
 *             turn in one run, by the scheduler's account of the daemon's threads; the median of the differences of neighbouring rounds.
 *  - first    fio writes every 4 KiB of an origin once, in random order, 16 at a time, with 0, 1, 4 and 16 snapshots without exceptions.
 *  - kernel   the same in the virtual machine (../shared/vm), on one disk on tmpfs, by the kernel's dm-snapshot and by our daemon behind
 *             the kernel's nbd client: what counts is how much slower each becomes with the number of snapshots, not the speed of an
 *             emulated machine. Of several rounds the fastest. Past the timeout (550 s), what was measured until then is shown.
 *  - create   snapshots are made while 16 writes are always in flight: the longest write of each creation, and how long the daemon held
 *             writes back (lastSuspendMs of its status: from the begin of the suspend until the origin goes on).
 *
 * Without a word all but `kernel`, which takes minutes, are done. Chunks are 4 KiB.
 */
import { execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { ControlClient } from '../src/daemon/client/control-client.ts';
import { NbdClient } from '../src/daemon/client/nbd-client.ts';
import { generator } from './generator.ts';

const run = promisify(execFile);
const SOURCES = fileURLToPath(new URL('../src/', import.meta.url));
const VM_RUN = fileURLToPath(new URL('../../shared/vm/vm-run', import.meta.url));
const VM_SCRIPT = fileURLToPath(new URL('kernel-snapshots.sh', import.meta.url));
const COUNTS = [0, 1, 4, 16];
const COPIED_MIB = 64;
const FIRST_MIB = 32;
const DEPTH = 16;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '12' },
    seconds: { type: 'string', default: '1' },
    creations: { type: 'string', default: '20' },
    depths: { type: 'string', default: '1,32,128' },
    directory: { type: 'string', default: '/dev/shm' },
    timeout: { type: 'string', default: '550' },
    'kernel-rounds': { type: 'string', default: '1' },
  },
});
const depths = values.depths.split(',').map(Number);
const parts = positionals.length === 0 ? ['copied', 'first', 'create'] : positionals;

/** A daemon on one image file, and the commands that it runs. */
class Stand {
  readonly #directory: string;
  readonly #child: ReturnType<typeof spawn>;

  private constructor(directory: string, child: ReturnType<typeof spawn>) {
    this.#directory = directory;
    this.#child = child;
  }

  static async start(sizeMiB: number, workers = 0): Promise<Stand> {
    const directory = mkdtempSync(join(values.directory, 'orion-snapshots-'));
    const image = join(directory, 'pv');
    writeFileSync(image, '');
    truncateSync(image, sizeMiB * 2 ** 20);
    const env = { ...process.env, XDG_RUNTIME_DIR: directory, LVM_SYSTEM_DIR: directory };
    const command = [join(SOURCES, 'cli/main.ts'), 'vgcreate', '--devices', image, '-s', '1m', 'vg', image];
    execFileSync(process.execPath, command, { env, cwd: directory, stdio: 'ignore' });
    const args = ['--devices', image, '--listen', `unix:${directory}/nbd.sock`, '--control', `${directory}/ctl`];
    const daemon = [join(SOURCES, 'daemon/main.ts'), ...args, '--workers', String(workers), '--log-level', 'error'];
    const child = spawn(process.execPath, daemon, { stdio: 'inherit', env, cwd: directory });
    const stand = new Stand(directory, child);
    while (!existsSync(stand.socket) || !existsSync(stand.control)) await sleep(20);
    return stand;
  }

  get socket(): string {
    return join(this.#directory, 'nbd.sock');
  }

  get control(): string {
    return join(this.#directory, 'ctl');
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async command(...args: readonly string[]): Promise<void> {
    const env = { ...process.env, ORION_LVM_CONTROL: this.control, LVM_SYSTEM_DIR: this.#directory };
    await run(process.execPath, [join(SOURCES, 'cli/main.ts'), ...args], { env, cwd: this.#directory });
  }

  /** A volume, with snapshots of it. */
  async volume(name: string, sizeMiB: number, snapshots: number): Promise<void> {
    await this.command('lvcreate', '-y', '-Wn', '-Zn', `-L${sizeMiB}m`, '-n', name, 'vg');
    for (let i = 0; i < snapshots; i++) await this.snapshot(name, `${name}-s${i}`, sizeMiB + 4);
  }

  async snapshot(origin: string, name: string, sizeMiB: number): Promise<void> {
    await this.command('lvcreate', '-s', '-c4k', `-L${sizeMiB}m`, '-n', name, `vg/${origin}`);
  }

  async stop(): Promise<void> {
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGTERM');
    await ended;
    rmSync(this.#directory, { recursive: true });
  }
}

/** Nanoseconds that the threads of a process have run, as far as they live. */
function cpuOf(pid: number): number {
  return readdirSync(`/proc/${pid}/task`).reduce((sum, thread) => {
    const [ran = '0'] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ', 1);
    return sum + Number(ran);
  }, 0);
}

function sorted(numbers: readonly number[]): number[] {
  return numbers.toSorted((a, b) => a - b);
}

function quantile(numbers: readonly number[], part: number): number {
  const all = sorted(numbers);
  return all[Math.min(all.length - 1, Math.floor(all.length * part))] ?? Number.NaN;
}

function row(...cells: readonly (string | number)[]): void {
  process.stdout.write(`| ${cells.join(' | ')} |\n`);
}

function head(title: string, ...cells: readonly string[]): void {
  process.stdout.write(`\n${title}\n\n`);
  row(...cells);
  row(...cells.map(() => '---'));
}

// Writes of chunks that are copied already.

/** Nanoseconds of the daemon's CPU per write. */
async function writeCost(stand: Stand, exportName: string, depth: number): Promise<number> {
  const words = [stand.socket, exportName, 'w', '4096', String(depth), values.seconds, '1', String(COPIED_MIB)];
  const before = cpuOf(stand.pid);
  const { stdout } = await run(generator(), words);
  const writes = Number(/iops=(\d+)/.exec(stdout)?.[1]) * Number(values.seconds);
  return (cpuOf(stand.pid) - before) / writes;
}

async function copied(): Promise<void> {
  head('Random 4 KiB writes, chunks copied already', 'snapshots', 'depth', 'without', 'with', 'difference');
  for (const snapshots of [1, 4]) {
    const stand = await Stand.start(COPIED_MIB * (snapshots + 2) + 64);
    try {
      await stand.volume('plain', COPIED_MIB, 0);
      await stand.volume('origin', COPIED_MIB, snapshots);
      for (const name of ['plain', 'origin']) await fioOnce(stand, name, COPIED_MIB);
      for (const depth of depths) {
        for (const name of ['plain', 'origin']) await writeCost(stand, `vg/${name}`, depth);
        const costs: { readonly without: number; readonly with: number }[] = [];
        for (let round = 0; round < Number(values.rounds); round++) {
          const names = round % 2 === 0 ? ['plain', 'origin'] : ['origin', 'plain'];
          const found = new Map<string, number>();
          for (const name of names) found.set(name, await writeCost(stand, `vg/${name}`, depth));
          costs.push({ without: found.get('plain') ?? 0, with: found.get('origin') ?? 0 });
        }
        const difference = quantile(
          costs.map((cost) => (cost.with / cost.without - 1) * 100),
          0.5,
        );
        const least = (of: 'without' | 'with'): string => Math.min(...costs.map((cost) => cost[of])).toFixed(0);
        const leastDifference = (Number(least('with')) / Number(least('without')) - 1) * 100;
        const text = `${difference.toFixed(1)} % (least: ${leastDifference.toFixed(1)} %)`;
        row(snapshots, depth, `${least('without')} ns`, `${least('with')} ns`, text);
      }
    } finally {
      await stand.stop();
    }
  }
}

// First writes.

/** Writes every 4 KiB of a volume once, in random order; gives seconds. */
async function fioOnce(stand: Stand, name: string, sizeMiB: number): Promise<number> {
  const uri = `nbd+unix:///vg/${name}?socket=${stand.socket}`;
  const job = ['--name=first', '--ioengine=nbd', `--uri=${uri}`, '--rw=randwrite', '--bs=4k', `--iodepth=${DEPTH}`];
  const { stdout } = await run('fio', [...job, `--size=${sizeMiB}m`, '--output-format=json', '--randseed=7']);
  const text = stdout.slice(stdout.indexOf('{'));
  const { jobs } = JSON.parse(text) as { jobs: readonly { write: { runtime: number; total_ios: number } }[] };
  return (jobs[0]?.write.runtime ?? Number.NaN) / 1000;
}

async function first(): Promise<void> {
  head('First writes, ours', 'snapshots', 'writes/s', 'slower by');
  let plain = Number.NaN;
  for (const snapshots of COUNTS) {
    const stand = await Stand.start(FIRST_MIB * (snapshots + 1) + 4 * snapshots + 64);
    try {
      await stand.volume('origin', FIRST_MIB, snapshots);
      const seconds = await fioOnce(stand, 'origin', FIRST_MIB);
      if (snapshots === 0) plain = seconds;
      row(snapshots, ((FIRST_MIB * 256) / seconds).toFixed(0), `${(seconds / plain).toFixed(1)} ×`);
    } finally {
      await stand.stop();
    }
  }
}

async function kernel(): Promise<void> {
  const directory = mkdtempSync(join(values.directory, 'orion-snapshots-'));
  const disk = join(directory, 'disk');
  writeFileSync(disk, '');
  truncateSync(disk, 1200 * 2 ** 20);
  try {
    const words = [VM_SCRIPT, values['kernel-rounds'], ...COUNTS.map(String)];
    const args = ['--out', directory, '--timeout', values.timeout, '--disk', disk, ...words];
    const { stdout } = await run(VM_RUN, args, { maxBuffer: 2 ** 26 }).catch((error: unknown) => {
      if (error instanceof Error && 'stdout' in error) return { stdout: `${String(error.stdout)}\n${error.message}` };
      throw error;
    });
    const found = [...stdout.matchAll(/^first (\w+) (\d+) (\d+) (\d+)\r?$/gm)];
    if (found.length < 2 * COUNTS.length) process.stderr.write(`Not all was measured:\n${stdout}\n`);
    const rate = (of: string, count: number): number =>
      Math.max(
        ...found.flatMap(([, side, snapshots, writes, ms]) =>
          side === of && Number(snapshots) === count ? [(Number(writes) * 1000) / Number(ms)] : [],
        ),
      );
    head('First writes in the virtual machine', 'snapshots', 'dm-snapshot: writes/s', 'slower by', 'ours', 'slower by');
    for (const count of COUNTS) {
      const cells = ['kernel', 'ours'].flatMap((side) => {
        const own = rate(side, count);
        return [own.toFixed(0), `${(rate(side, 0) / own).toFixed(1)} ×`];
      });
      row(count, ...cells);
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
}

// Creation under load.

/** Keeps DEPTH writes in flight, and knows how long each took. */
class Load {
  readonly #client: NbdClient;
  readonly #sizeBytes: number;
  #stopped = false;
  #running: Promise<unknown> = Promise.resolve();
  #latencies: number[] = [];

  constructor(client: NbdClient, sizeBytes: number) {
    this.#client = client;
    this.#sizeBytes = sizeBytes;
  }

  start(): void {
    const payload = Buffer.alloc(4096, 1);
    const blocks = this.#sizeBytes / 4096;
    let next = 0;
    const one = async (): Promise<void> => {
      while (!this.#stopped) {
        const begun = performance.now();
        await this.#client.write(((next++ * 40_503) % blocks) * 4096, payload);
        this.#latencies.push(performance.now() - begun);
      }
    };
    this.#running = Promise.all(Array.from({ length: DEPTH }, one));
  }

  /** Milliseconds of the writes that have ended since the last call. */
  take(): readonly number[] {
    const taken = this.#latencies;
    this.#latencies = [];
    return taken;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }
}

async function create(): Promise<void> {
  // As it is installed: commands run beside the worker that serves.
  const stand = await Stand.start(1200, 1);
  try {
    await stand.volume('origin', COPIED_MIB, 0);
    const target = { server: `unix:${stand.socket}`, exportName: 'vg/origin', contexts: [], timeoutMs: 5000 };
    const client = await NbdClient.connect(target);
    const control = new ControlClient(stand.control);
    const load = new Load(client, COPIED_MIB * 2 ** 20);
    load.start();
    const longest: number[] = [];
    const all: number[] = [];
    const suspends: number[] = [];
    const quiet: number[] = [];
    for (let i = 0; i < Number(values.creations); i++) {
      await sleep(150);
      load.take();
      await sleep(150);
      quiet.push(Math.max(...load.take()));
      await stand.snapshot('origin', 's', COPIED_MIB + 4);
      const taken = load.take();
      all.push(...taken);
      longest.push(Math.max(...taken));
      const status = (await control.request('GET', '/v1/status')) as {
        readonly exports: readonly { readonly name: string; readonly lastSuspendMs?: number }[];
      };
      suspends.push(status.exports.find(({ name }) => name === 'vg/origin')?.lastSuspendMs ?? Number.NaN);
      await stand.command('lvremove', '-y', 'vg/s');
    }
    await load.stop();
    await client.close();
    head(`${values.creations} snapshots made under load`, 'ms', 'p50', 'p90', 'p99', 'most');
    const line = (what: string, numbers: readonly number[]): void => {
      row(what, ...[0.5, 0.9, 0.99, 1].map((part) => quantile(numbers, part).toFixed(2)));
    };
    line('longest write in 150 ms without a creation', quiet);
    line('longest write during a creation', longest);
    line('all writes during creations', all);
    line('inside the suspend, by the daemon', suspends);
  } finally {
    await stand.stop();
  }
}

const PARTS: Readonly<Record<string, () => Promise<void>>> = { copied, first, kernel, create };
for (const part of parts) {
  const work = PARTS[part];
  if (work === undefined) throw new Error(`${part}: no such part`);
  await work();
}
