/**
 * What systemd and a daemon tell each other: readiness and status (sd_notify), the watchdog, and sockets that systemd
 * listened on before the daemon was started (LISTEN_FDS). Facts: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).
 *
 * Messages go through `systemd-notify`, because Node has no unix datagram sockets; one message in some seconds is worth no
 * native code. The unit therefore needs NotifyAccess=all: the sender is our child.
 *
 * Invariants
 *  - A message that can't be sent is logged and changes nothing else, but for a hand-over: a manager that does not know of the
 *    next process takes the end of this one for the service's, so it is tried whether it hears before anything is given away.
 *  - The variables are meant for one process: they count only if they name ours, and our children don't see them.
 *  - The watchdog is fed only after everything that serves has answered; a check that does not end feeds nothing.
 */
import { execFile } from 'node:child_process';
import { hrtime } from 'node:process';
import { promisify } from 'node:util';
import { DaemonError } from './errors.ts';
import type { Logger } from './log.ts';

const run = promisify(execFile);
const TIMEOUT_MS = 5000;

type Environment = Readonly<Record<string, string | undefined>>;

export interface Notifier {
  /** Sends the assignments ("READY=1", "STATUS=…") as one message; resolves when it was heard (true) or has failed. */
  notify(...assignments: readonly string[]): Promise<boolean>;
}

/** A notifier to the service manager that started us; one that does nothing where none did. */
export function createNotifier(env: Environment, log: Logger): Notifier {
  const socket = env['NOTIFY_SOCKET'];
  if (socket === undefined || socket === '') return { notify: () => Promise.resolve(true) };
  return {
    async notify(...assignments): Promise<boolean> {
      try {
        await run('systemd-notify', [...assignments], { env, timeout: TIMEOUT_MS });
        return true;
      } catch (err) {
        log.warn({ err, assignments }, 'cannot tell systemd');
        return false;
      }
    },
  };
}

/** What the start of a reload is told with; READY=1 tells its end. The time lets systemd pair the two (Type=notify-reload). */
export function reloadingMessage(): readonly string[] {
  return ['RELOADING=1', `MONOTONIC_USEC=${hrtime.bigint() / 1000n}`];
}

export interface Watchdog {
  stop(): void;
}

const NO_WATCHDOG: Watchdog = { stop: () => undefined };

/** Half of the time that systemd gives between two signs of life, in ms; null: it waits for none from us. */
export function watchdogIntervalMs(env: Environment, pid: number): number | null {
  const microseconds = Number(env['WATCHDOG_USEC'] ?? '');
  if (!Number.isSafeInteger(microseconds) || microseconds <= 0) return null;
  const meant = env['WATCHDOG_PID'];
  if (meant !== undefined && meant !== '' && Number(meant) !== pid) return null;
  return Math.max(1, microseconds / 2000);
}

export interface WatchdogOptions {
  readonly env: Environment;
  readonly pid: number;
  readonly notifier: Notifier;
  /** Resolves when everything that serves is alive; rejects with what is not. */
  readonly alive: () => Promise<void>;
  readonly log: Logger;
}

/** Tells systemd that we are alive, twice in each period of WatchdogSec=, as long as that is so. */
export function startWatchdog({ env, pid, notifier, alive, log }: WatchdogOptions): Watchdog {
  const everyMs = watchdogIntervalMs(env, pid);
  if (everyMs === null) return NO_WATCHDOG;
  let checking = false;
  const feed = async (): Promise<void> => {
    if (checking) {
      log.warn('the check for signs of life takes long: systemd is not told that we are alive');
      return;
    }
    checking = true;
    try {
      await alive();
      await notifier.notify('WATCHDOG=1');
    } catch (err) {
      log.error({ err }, 'something does not answer: systemd is not told that we are alive');
    } finally {
      checking = false;
    }
  };
  const timer = setInterval(() => void feed(), everyMs).unref();
  return {
    stop(): void {
      clearInterval(timer);
    },
  };
}

/** A listening socket that was handed to us. */
export interface InheritedSocket {
  readonly fd: number;
  readonly use: 'nbd' | 'control';
}

/** SD_LISTEN_FDS_START. */
const FIRST_FD = 3;
/** What systemd says where nobody gave a name: of a socket unit without FileDescriptorName=, that is the unit's name. */
const UNNAMED = new Set(['', 'unknown', 'connection', 'orion-lvmd.socket']);

/**
 * The sockets that the environment hands to process `pid`; none if it means another. Names (LISTEN_FDNAMES) decide: "control" is
 * the control socket, "nbd" and no name are for NBD. Throws a DaemonError for other names, and for two control sockets.
 */
export function inheritedSockets(env: Environment, pid: number): readonly InheritedSocket[] {
  if (env['LISTEN_PID'] === undefined || Number(env['LISTEN_PID']) !== pid) return [];
  const text = env['LISTEN_FDS'] ?? '';
  const count = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isNaN(count)) throw badSockets(`LISTEN_FDS is ${JSON.stringify(text)}: it must be a number of sockets`);
  const names = (env['LISTEN_FDNAMES'] ?? '').split(':');
  const sockets = Array.from({ length: count }, (_, index) => inherited(FIRST_FD + index, names[index] ?? ''));
  if (sockets.filter(({ use }) => use === 'control').length > 1) {
    throw badSockets('LISTEN_FDNAMES names two sockets "control": there is one control socket');
  }
  return sockets;
}

function inherited(fd: number, name: string): InheritedSocket {
  if (name === 'nbd' || UNNAMED.has(name)) return { fd, use: 'nbd' };
  if (name === 'control' || name === 'orion-lvmd-control.socket') return { fd, use: 'control' };
  throw badSockets(
    `LISTEN_FDNAMES: ${JSON.stringify(name)} is not allowed: it must be "nbd" or "control" (FileDescriptorName= of the socket unit)`,
  );
}

function badSockets(problem: string): DaemonError {
  return new DaemonError({ code: 'BAD_CONFIG', problems: [problem] });
}

let taken: readonly InheritedSocket[] | null = null;

/** The sockets that the process before had from systemd, by their descriptors here. */
export function inheritSockets(sockets: readonly InheritedSocket[]): void {
  taken = sockets;
}

/** This process's own, which are taken out of its environment at the first call; later calls give the same. */
export function takeInheritedSockets(): readonly InheritedSocket[] {
  if (taken !== null) return taken;
  const sockets = inheritedSockets(process.env, process.pid);
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES']) delete process.env[name];
  taken = sockets;
  return taken;
}
