/**
 * A process that does TLS: the supervisor starts it at the first client that wants TLS, and talks to it over the channel (host.ts).
 * Only here, and not in the worker that serves the volume, a client costs the time of encryption.
 *
 * Invariants
 *  - Signals that are meant for the daemon are the supervisor's business.
 *  - When the channel closes the supervisor has gone: no handshake is begun, and tunnels end with their clients, whom workers let go.
 *  - An error that nobody expected is logged and ends the process; the next client that wants TLS starts another.
 */
import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import { createLog, type Logger } from '../log.ts';
import { socketOf } from '../../nbd/socket-handle.ts';
import type { FromTunnels, ToTunnels } from './host.ts';
import { Tunnels } from './tunnels.ts';

const EXIT_UNEXPECTED = 1;

let tunnels: Tunnels | null = null;
let log: Logger | null = null;
/** Sockets for the plain text, until their client's comes. */
const inner = new Map<number, Socket>();

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR2'] as const) process.on(signal, () => undefined);
process.on('message', (message: ToTunnels, handle: unknown) => receive(message, handle));
process.on('disconnect', () => {
  // Clients go on: another process has them, or their workers end.
  void running()
    .drain(false)
    .then(() => process.exit(0));
});
process.once('uncaughtException', (err, origin) => {
  log?.fatal({ err, origin }, 'unexpected error in a process that does TLS');
  process.exit(EXIT_UNEXPECTED);
});

function receive(message: ToTunnels, handle: unknown): void {
  if (message.kind === 'start') start(message);
  else if (message.kind === 'configure') configure(message);
  else if (message.kind === 'inner') takeInner(message.id, handle);
  else if (message.kind === 'client') takeClient(message.id, handle);
  else if (message.kind === 'cancel') running().cancel(message.id);
  else void drain();
}

function start({ index, settings }: Extract<ToTunnels, { readonly kind: 'start' }>): void {
  process.title = `orion-lvmd: tls ${index}`;
  log = createLog({ level: settings.logLevel, format: settings.logFormat }).child({ tls: index });
  tunnels = new Tunnels(settings, {
    secured: (id, peer) => tell({ kind: 'secured', id, peer }),
    failed: (id, reason) => tell({ kind: 'failed', id, reason }),
    ended: (id) => tell({ kind: 'ended', id }),
  });
  tell({ kind: 'ready' });
}

function configure({ settings }: Extract<ToTunnels, { readonly kind: 'configure' }>): void {
  if (log !== null) log.level = settings.logLevel;
  running().configure(settings);
}

function takeInner(id: number, handle: unknown): void {
  if (typeof handle === 'object' && handle !== null) inner.set(id, socketOf(handle));
}

function takeClient(id: number, handle: unknown): void {
  const plain = inner.get(id);
  inner.delete(id);
  tell({ kind: 'taken', id });
  // The client went away while its handle was on its way.
  if (typeof handle !== 'object' || handle === null || plain === undefined) {
    plain?.destroy();
    tell({ kind: 'failed', id, reason: 'the client has gone' });
    return;
  }
  running().secure(id, socketOf(handle), plain);
}

async function drain(): Promise<void> {
  await running().drain(true);
  tell({ kind: 'drained' });
}

function running(): Tunnels {
  assert(tunnels !== null, 'asked before it was started');
  return tunnels;
}

function tell(message: FromTunnels): void {
  // The channel may have closed meanwhile: then nobody waits for it.
  if (process.connected) process.send?.(message, undefined, undefined, () => undefined);
}
