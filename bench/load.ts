/**
 * Loads on a server, and what they show: by `nbdblast`, which costs little itself, or by fio's nbd engine, whose own cost is the
 * bottleneck.
 *
 * A load is a line: perhaps "fio"; r or w, bytes, depth of each connection, connections; perhaps "seq".
 */
import { execFile, spawnSync } from 'node:child_process';
import { promisify } from 'node:util';
import { generator } from './generator.ts';
import type { Served } from './servers.ts';

const run = promisify(execFile);

export interface Figures {
  /** I/O per second. */
  readonly iops: number;
  /** Microseconds. */
  readonly p50: number;
  readonly p99: number;
  /** Microseconds of the server's CPU per I/O. */
  readonly cpu: number;
}

export interface Bounds {
  readonly seconds: number;
  /** Of the export, from its start. */
  readonly spanMiB: number;
}

/** Whether there is a fio that speaks NBD. */
export function hasFio(): boolean {
  return spawnSync('fio', ['--enghelp=nbd']).status === 0;
}

export async function measure(server: Served, load: string, bounds: Bounds): Promise<Figures> {
  const isFio = load.startsWith('fio ');
  const before = server.cpu();
  const { ios, ...figures } = isFio ? await fio(server, load.slice(4), bounds) : await blast(server, load, bounds);
  // A server that forks reaps its child, whose time then counts.
  await new Promise((resolve) => setTimeout(resolve, 200));
  return { ...figures, cpu: (server.cpu() - before) / ios };
}

type Raw = Omit<Figures, 'cpu'> & { readonly ios: number };

async function blast({ socket, exportNames, name }: Served, load: string, { seconds, spanMiB }: Bounds): Promise<Raw> {
  const [mode = '', bytes = '', depth = '', connections = '', order] = load.split(' ');
  const words = [socket, exportNames[0] ?? '', mode, bytes, depth, String(seconds), connections, String(spanMiB)];
  const { stdout } = await run(generator(), order === undefined ? words : [...words, order]);
  const figure = (of: string): number => Number(new RegExp(`${of}=(-?\\d+)`).exec(stdout)?.[1]);
  if (figure('errors') !== 0) throw new Error(`${name}: ${stdout}`);
  const iops = figure('iops');
  return { iops, p50: figure('p50us'), p99: figure('p99us'), ios: iops * seconds };
}

/** What is used of fio's report. */
interface FioDirection {
  readonly iops: number;
  readonly total_ios: number;
  readonly clat_ns: { readonly percentile: Readonly<Record<string, number>> };
}

async function fio({ socket, exportNames }: Served, load: string, { seconds, spanMiB }: Bounds): Promise<Raw> {
  const [mode = '', bytes = '', depth = '', connections = '', order] = load.split(' ');
  const direction = mode === 'r' ? 'read' : 'write';
  const { stdout } = await run('fio', [
    '--name=load',
    '--ioengine=nbd',
    `--uri=nbd+unix:///${exportNames[0] ?? ''}?socket=${socket}`,
    `--rw=${order === undefined ? 'rand' : ''}${direction}`,
    `--bs=${bytes}`,
    `--iodepth=${depth}`,
    `--numjobs=${connections}`,
    '--group_reporting',
    '--time_based',
    `--runtime=${seconds}`,
    `--size=${spanMiB}m`,
    '--randrepeat=1',
    '--verify_state_save=0',
    '--output-format=json',
  ]);
  const report: { readonly jobs: readonly Record<'read' | 'write', FioDirection>[] } = JSON.parse(
    stdout.slice(stdout.indexOf('{')),
  );
  const found = report.jobs[0]?.[direction];
  if (found === undefined) throw new Error(`fio: ${stdout}`);
  const percentile = (of: string): number => Math.round((found.clat_ns.percentile[of] ?? Number.NaN) / 1000);
  return { iops: found.iops, p50: percentile('50.000000'), p99: percentile('99.000000'), ios: found.total_ios };
}
