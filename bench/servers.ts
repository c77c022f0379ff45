/**
 * The servers that are compared: ours and whichever peers are installed, each on its own file with the same contents.
 *
 * Invariants
 *  - Every server gets the settings that its authors recommend for speed, and serves through a unix socket.
 *  - A server that is not installed is left out and said so; one that does not start is an error.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const CHECKOUT = fileURLToPath(new URL('..', import.meta.url));
const START_TIMEOUT_MS = 20_000;

export interface Served {
  readonly name: string;
  readonly socket: string;
  readonly exportNames: readonly string[];
  /** Microseconds of CPU that it and its children have used so far. */
  cpu(): number;
  stop(): Promise<void>;
}

export interface OursOptions {
  readonly engine: string;
  readonly workers: number;
  readonly volumes: number;
  readonly stripes: number;
  /** More flags of the daemon. */
  readonly flags?: readonly string[];
  /** What it is called; default: by its engine. */
  readonly label?: string;
  /** The checkout whose daemon it is; default: this one. */
  readonly checkout?: string;
}

/** Volume groups are laid out by our own commands, on `stripes` files. */
export async function startOurs(directory: string, sizeMiB: number, options: OursOptions): Promise<Served> {
  const { engine, workers, volumes, stripes, flags = [] } = options;
  const name = `ours-${options.label ?? engine}-${workers}-${volumes}-${stripes}`;
  const each = Math.ceil((sizeMiB * volumes) / stripes) + 16;
  const images = Array.from({ length: stripes }, (_, i) => join(directory, `${name}-${i}.img`));
  for (const image of images) filledFile(image, each);
  const run = (...args: readonly string[]): void => ours(directory, [...args]);
  run('pvcreate', '--devices', images.join(','), ...images);
  run('vgcreate', '--devices', images.join(','), 'vg', ...images);
  const exportNames = Array.from({ length: volumes }, (_, i) => `vg/lv${i}`);
  for (const exportName of exportNames) {
    const striped = stripes > 1 ? ['-i', String(stripes), '-I', '64k'] : [];
    const size = `${sizeMiB}m`;
    const lvName = exportName.slice(3);
    run(
      'lvcreate',
      '--devices',
      images.join(','),
      '-y',
      '-W',
      'n',
      '-Z',
      'n',
      '-n',
      lvName,
      '-L',
      size,
      ...striped,
      'vg',
    );
  }
  const socket = join(directory, `${name}.sock`);
  const args = [
    '--devices',
    images.join(','),
    '--listen',
    `unix:${socket}`,
    '--control',
    join(directory, `${name}.ctl`),
    ...flags,
  ];
  const daemon = [
    join(options.checkout ?? CHECKOUT, 'src/daemon/main.ts'),
    ...args,
    '--engine',
    engine,
    '--workers',
    String(workers),
  ];
  const child = spawn(process.execPath, [...daemon, '--log-level', 'error'], {
    stdio: 'inherit',
    env: environment(directory),
  });
  return served(name, { pid: child.pid ?? 0 }, socket, exportNames);
}

function environment(directory: string): NodeJS.ProcessEnv {
  return { ...process.env, XDG_RUNTIME_DIR: directory, LVM_SYSTEM_DIR: directory };
}

function ours(directory: string, args: readonly string[]): void {
  const child = spawnSync(process.execPath, [join(CHECKOUT, 'src/cli/main.ts'), ...args], {
    cwd: directory,
    encoding: 'utf8',
    env: environment(directory),
  });
  if (child.status !== 0) throw new Error(`orion-lvm ${args.join(' ')}: ${child.stderr}`);
}

/** Starts every peer that is installed; `flags` are more of theirs. */
export async function startPeers(
  directory: string,
  sizeMiB: number,
  wanted: readonly string[],
  flags: readonly string[] = [],
): Promise<readonly Served[]> {
  const peers: Served[] = [];
  for (const name of wanted) {
    const program = name === 'nbdkit' ? 'nbdkit' : name;
    if (spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0) {
      process.stderr.write(`${name} is not installed: left out\n`);
      continue;
    }
    const image = join(directory, `${name}.img`);
    const socket = join(directory, `${name}.sock`);
    filledFile(image, sizeMiB);
    const child = spawn(program, [...flags, ...peerArguments(name, image, socket, directory)], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    if (name === 'nbd-server') await once(child, 'exit');
    const pid = name === 'nbd-server' ? await readPid(pidFile(directory)) : child.pid;
    peers.push(await served(name, { pid: pid ?? 0 }, socket, ['x']));
  }
  return peers;
}

function peerArguments(name: string, image: string, socket: string, directory: string): readonly string[] {
  if (name === 'nbdkit') return ['-f', '-U', socket, 'file', image];
  if (name === 'qemu-nbd') {
    return ['-t', '-f', 'raw', '-k', socket, '--cache=writeback', '--aio=io_uring', '-e', '8', '-x', 'x', image];
  }
  const config = join(directory, 'nbd-server.conf');
  const generic = `[generic]\nunixsock = ${socket}\nmax_threads = 4\nallowlist = true\n`;
  writeFileSync(config, `${generic}[x]\nexportname = ${image}\n`);
  // It goes into the background, and leaves its number in a file.
  return ['-C', config, '-p', pidFile(directory)];
}

async function served(
  name: string,
  { pid }: { readonly pid: number },
  socket: string,
  exportNames: readonly string[],
): Promise<Served> {
  const started = performance.now();
  while (!existsSync(socket)) {
    if (!isAlive(pid) || performance.now() - started > START_TIMEOUT_MS) throw new Error(`${name} did not start`);
    await sleep(50);
  }
  return {
    name,
    socket,
    exportNames,
    cpu: () => family(pid).reduce((sum, pid) => sum + cpuOf(pid), 0),
    stop: async () => {
      if (isAlive(pid)) process.kill(pid, 'SIGTERM');
      while (isAlive(pid)) await sleep(50);
    },
  };
}

function pidFile(directory: string): string {
  return join(directory, 'nbd-server.pid');
}

async function readPid(path: string): Promise<number> {
  for (let tries = 0; tries < 100 && !existsSync(path); tries++) await sleep(50);
  return Number(readFileSync(path, 'utf8'));
}

/** Whether there is such a process that is more than its exit status. */
function isAlive(pid: number): boolean {
  try {
    return !/^\S+ \(.*\) Z/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

/** A process and all below it. */
function family(pid: number): number[] {
  let children = '';
  try {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      children += readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8');
    }
  } catch {
    // It has ended.
    return [];
  }
  return [
    pid,
    ...children
      .split(' ')
      .filter(Boolean)
      .flatMap((child) => family(Number(child))),
  ];
}

/** Microseconds, with what its reaped children used; clock ticks are 10 ms on Linux. */
function cpuOf(pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? [];
    return [11, 12, 13, 14].reduce((sum, i) => sum + Number(fields[i]) * 10_000, 0);
  } catch {
    return 0;
  }
}

/** No holes: reading those is cheaper than reading data. */
function filledFile(path: string, sizeMiB: number): void {
  const status = spawnSync('sh', ['-c', `head -c ${sizeMiB}M /dev/urandom > "$0"`, path]).status;
  if (status !== 0) throw new Error(`${path} could not be written`);
}
