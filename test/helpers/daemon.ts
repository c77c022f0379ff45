/** Starts the real `bin/orion-lvmd` as a child process on a unix socket, and stops it again. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { CHECKOUT } from './shared.ts';

/** Polls `condition` until it holds; fails after `timeoutMs` with what was waited for. */
export async function waitFor(
  what: string,
  condition: () => Promise<boolean> | boolean,
  timeoutMs = 30_000,
): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!(await condition())) {
    assert.ok(Date.now() < end, `timed out waiting for ${what}`);
    await delay(20);
  }
}

/** Whether somebody listens on a socket. */
export function accepts(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => {
      resolve(false);
    });
  });
}

export interface RunningDaemon {
  readonly socket: string;
  readonly child: ChildProcess;
  /** The NBD URI of an export ("vg/lv"). */
  uri(exportName: string): string;
  /** Everything that it printed so far. */
  log(): string;
  /** SIGTERM; resolves with the exit code. */
  stop(): Promise<number | null>;
}

/** Starts a daemon on `devices`; `extra` are more arguments, `env` more variables. Resolves when it accepts connections. */
export async function startDaemon(
  devices: readonly string[],
  extra: readonly string[] = [],
  env: Readonly<Record<string, string>> = {},
): Promise<RunningDaemon> {
  const folder = await mkdtemp(join(tmpdir(), 'orion-lvmd-test-'));
  const socket = join(folder, 'nbd.sock');
  const args = [
    '--devices',
    devices.join(','),
    '--listen',
    `unix:${socket}`,
    '--control',
    join(folder, 'control.sock'),
    ...extra,
  ];
  const child = spawn(join(CHECKOUT, 'bin/orion-lvmd'), args, {
    cwd: folder,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const exited = once(child, 'exit');
  await waitFor('the daemon to listen', async () => {
    assert.equal(child.exitCode, null, `the daemon ended at its start:\n${output}`);
    return accepts(socket);
  });
  return {
    socket,
    child,
    uri: (exportName) => `nbd+unix:///${exportName}?socket=${socket}`,
    log: () => output,
    async stop(): Promise<number | null> {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
      await exited;
      await rm(folder, { recursive: true, force: true });
      return child.exitCode;
    },
  };
}
