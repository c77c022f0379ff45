/**
 * The daemon's life as a process: arguments, start, signals, end. `npm start` (demo.ts) uses the same.
 *
 *     SIGTERM, SIGINT   drain, flush, close, exit 0; the second one exits at once
 *     SIGUSR2           start the program again, hand everything over to that process, exit 0 when it serves
 *     SIGHUP            read the configuration and the devices again; a bad configuration is refused and the old one stays
 *
 * Invariants
 *  - Signals are noted when they come and acted upon one at a time, in `serve`'s loop.
 *  - An error that nobody expected is logged and ends the process with 1: in one place, `failUnexpected`.
 */
import { plainText } from '../ondisk/plain-text.ts';
import { Daemon } from './compose.ts';
import { daemonSurroundings, loadSettings, type Settings } from './config.ts';
import { DaemonError, EXIT_FAILED, isOperatingError, reasonOf, singleErrors } from './errors.ts';
import { parseFlags } from './flags.ts';
import type { Patience } from './handover/hand-over.ts';
import { Predecessor } from './handover/predecessor.ts';
import type { Program } from './handover/successor.ts';
import { createLog, type Logger } from './log.ts';
import { createNotifier, inheritSockets, type Notifier, reloadingMessage, startWatchdog } from './systemd.ts';
import { packageVersion } from './version.ts';

/** Exit code of an error that nobody expected, as Node's own. */
const EXIT_UNEXPECTED = 1;
/** To tell systemd of the next process: not hearing of it, it would end the service. */
const MAIN_ATTEMPTS = 3;

/** Runs orion-lvmd with these arguments until it is told to stop; gives the exit code. */
export async function runDaemon(args: readonly string[]): Promise<number> {
  process.title = 'orion-lvmd';
  const code = await explained(() => run(args));
  // The channel of one that was to follow would keep it alive.
  if (process.connected) process.disconnect?.();
  return code;
}

async function run(args: readonly string[]): Promise<number> {
  const parsed = parseFlags(args, packageVersion());
  if ('output' in parsed) {
    (parsed.exitCode === 0 ? process.stdout : process.stderr).write(parsed.output);
    return parsed.exitCode;
  }
  const load = (): Settings => keptToItsFile(loadSettings(parsed.flags, daemonSurroundings()));
  const predecessor = await Predecessor.find();
  if (predecessor !== null) inheritSockets(predecessor.estate.systemd);
  const settings = load();
  if (parsed.flags.checkConfig === true) return sayChecked(settings);
  const [, main] = process.argv;
  return serve({ settings, load, program: main === undefined ? null : { main, args }, predecessor });
}

/**
 * From now on that file is demanded, by a reload and by the process that follows: one that was found by searching and is gone for a
 * moment would else be nothing, or another one, and nobody would be kept from anything any more.
 */
function keptToItsFile(settings: Settings): Settings {
  if (settings.configFile !== null) process.env['ORION_LVM_CONFIG'] = settings.configFile;
  return settings;
}

function sayChecked({ configFile, withoutEffect }: Settings): number {
  for (const note of withoutEffect) process.stderr.write(`orion-lvmd: ${note}\n`);
  process.stdout.write(`${configFile ?? 'no config file, the defaults'}: ok\n`);
  return 0;
}

/** Runs `work`; says what failed in plain words and gives the exit code. An error that nobody expected goes on. */
export async function explained(work: () => Promise<number>): Promise<number> {
  try {
    return await work();
  } catch (error) {
    if (!isOperatingError(error)) throw error;
    for (const line of error.message.split('\n')) process.stderr.write(`orion-lvmd: ${plainText(line)}\n`);
    return error instanceof DaemonError ? error.exitCode : EXIT_FAILED;
  }
}

export interface ServeOptions {
  readonly settings: Settings;
  /** Reads the settings again, for SIGHUP. */
  readonly load: () => Settings;
  /** What is started to hand everything over to, for SIGUSR2; null: nothing. */
  readonly program?: Program | null;
  /** How long that process is waited for, where not as usual. */
  readonly patience?: Partial<Patience>;
  /** The process that this one follows. */
  readonly predecessor?: Predecessor | null;
  /** Told once, when clients can connect. */
  readonly onReady?: (daemon: Daemon) => void;
}

/** Serves until SIGTERM or SIGINT; gives the exit code. Throws the DaemonError of a start that fails. */
export async function serve(options: ServeOptions): Promise<number> {
  const { settings, load, onReady, program = null, patience = {}, predecessor = null } = options;
  const log = createLog({ level: settings.logLevel, format: settings.logFormat });
  const signals = new Signals(log);
  process.once('uncaughtException', (error, origin) => failUnexpected(log, error, origin));
  const notifier = createNotifier(process.env, log);
  // Something that it passes over.
  if (predecessor !== null && !(await notifier.notify('X_ORION_LVM=1'))) throw unheard();
  const daemon = await Daemon.start(settings, log, predecessor);
  signals.onSecondStop = (): void => daemon.kill();
  await tellReady(daemon, notifier, predecessor !== null);
  // Now that systemd knows who is meant, the other one may end.
  predecessor?.serving();
  log.info({ pid: process.pid, config: settings.configFile }, `ready: ${summary(daemon)}`);
  onReady?.(daemon);
  if (settings.stdio) void daemon.serveStdio().then(() => signals.stop());
  const { env, pid } = process;
  const watchdog = startWatchdog({ env, pid, notifier, alive: () => daemon.alive(), log });
  for (;;) {
    const next = await signals.next();
    if (next === 'reload') await reload(daemon, load, notifier, log);
    else if (next === 'hand over') {
      await handOver(daemon, { program: settings.stdio ? null : program, patience, signals, log });
    } else break;
  }
  watchdog.stop();
  return stop(daemon, notifier, log);
}

/** `follows`: who is to be waited for has changed. Throws a DaemonError if that can't be told, with everything closed. */
async function tellReady(daemon: Daemon, notifier: Notifier, follows: boolean): Promise<void> {
  const message = ['READY=1', `STATUS=${summary(daemon)}`];
  if (!follows) {
    await notifier.notify(...message);
    return;
  }
  for (let attempt = 0; attempt < MAIN_ATTEMPTS; attempt++) {
    if (await notifier.notify(`MAINPID=${process.pid}`, ...message)) return;
  }
  await daemon.close();
  throw unheard();
}

function unheard(): DaemonError {
  return new DaemonError({ code: 'HAND_OVER', reason: 'systemd does not hear which process follows' });
}

interface HandOverParts {
  readonly program: Program | null;
  readonly patience: Partial<Patience>;
  readonly signals: Signals;
  readonly log: Logger;
}

/** Ends this process when another one serves in its place; comes back when everything goes on here. */
async function handOver(daemon: Daemon, { program, patience, signals, log }: HandOverParts): Promise<void> {
  if (program === null) {
    log.error('SIGUSR2: what runs here can be handed over to nobody');
    return;
  }
  log.info(program, 'starting the program again, to hand everything over to it');
  try {
    const successor = await daemon.handOver(program, patience);
    log.info({ successor: successor.pid }, 'handed over: this process ends');
    if (signals.stopping) successor.kill('SIGTERM');
  } catch (error) {
    if (!(error instanceof DaemonError)) throw error;
    if (error.code === 'HAND_OVER') {
      log.error({ reason: error.message }, 'everything stays here, as it was');
      return;
    }
    log.fatal({ reason: error.message }, 'the process that followed failed: both end');
    process.exit(EXIT_FAILED);
  }
  // Nothing here can be stopped in an orderly way any more, and nothing is to be that others use.
  signals.onStop = (): void => {
    log.info('told to end: alerts that wait are not delivered');
    process.exit(0);
  };
  await daemon.leave();
  // Without the end of the listeners, which would remove the files of their sockets.
  process.exit(0);
}

async function reload(daemon: Daemon, load: () => Settings, notifier: Notifier, log: Logger): Promise<void> {
  await notifier.notify(...reloadingMessage());
  try {
    await daemon.reload(load());
    log.info(`reloaded: ${summary(daemon)}`);
  } catch (error) {
    if (!isOperatingError(error)) throw error;
    const outcome =
      error instanceof DaemonError
        ? 'reload refused, everything stays as it was'
        : 'reload failed, what is served goes on';
    for (const reason of error.message.split('\n')) log.error({ reason }, outcome);
  } finally {
    await notifier.notify('READY=1', `STATUS=${summary(daemon)}`);
  }
}

async function stop(daemon: Daemon, notifier: Notifier, log: Logger): Promise<number> {
  const { connections } = daemon.status();
  await notifier.notify('STOPPING=1', `STATUS=draining ${connections} connections`);
  log.info({ connections }, 'stopping: no new connections, what is in flight is finished');
  try {
    await daemon.close();
  } catch (error) {
    for (const each of singleErrors(error)) log.error({ reason: reasonOf(each) }, 'something could not be closed');
    log.error('stopped, but not everything could be made durable');
    return EXIT_FAILED;
  }
  log.info('stopped: everything acknowledged is durable');
  return 0;
}

function summary(daemon: Daemon): string {
  const { exports } = daemon.status();
  const served = exports.filter(({ state }) => state === 'active').length;
  const inactive = exports.filter(({ state }) => state === 'inactive').length;
  return `${served} logical volumes served${inactive === 0 ? '' : `, ${inactive} not served`}`;
}

function failUnexpected(log: Logger, err: Error, origin: string): never {
  log.fatal({ err, origin }, 'unexpected error');
  process.exit(EXIT_UNEXPECTED);
}

/** The signals that concern the daemon, noted as they come. */
class Signals {
  #stop = false;
  #reload = false;
  #handOver = false;
  #wake: () => void = () => undefined;
  /** What to do at once when told to stop; null: what `next` says. */
  onStop: (() => void) | null = null;
  /** What has to be ended besides this process. */
  onSecondStop: () => void = () => undefined;

  constructor(log: Logger) {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.on(signal, () => {
        this.onStop?.();
        if (this.#stop) {
          log.error({ signal }, 'second signal: ending at once, without a flush');
          this.onSecondStop();
          process.exit(EXIT_FAILED);
        }
        this.#stop = true;
        this.#wake();
      });
    }
    process.on('SIGHUP', () => {
      this.#reload = true;
      this.#wake();
    });
    process.on('SIGUSR2', () => {
      this.#handOver = true;
      this.#wake();
    });
  }

  /** As SIGTERM does. */
  stop(): void {
    this.#stop = true;
    this.#wake();
  }

  get stopping(): boolean {
    return this.#stop;
  }

  /** What to do next; reloads that were asked for during another one are one. */
  async next(): Promise<'reload' | 'hand over' | 'stop'> {
    while (!this.#stop && !this.#reload && !this.#handOver) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await promise;
    }
    if (this.#stop) return 'stop';
    if (this.#reload) {
      this.#reload = false;
      return 'reload';
    }
    this.#handOver = false;
    return 'hand over';
  }
}
