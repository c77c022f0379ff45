/**
 * The daemon's life as a process: arguments, start, signals, end. `npm start` (demo.ts) uses the same.
 *
 *     SIGTERM, SIGINT   drain, flush, close, exit 0; the second one exits at once
 *     SIGHUP            read the configuration and the devices again; a bad configuration is refused and the old one stays
 *
 * Invariants
 *  - Signals are noted when they come and acted upon one at a time, in `serve`'s loop.
 *  - An error that nobody expected is logged and ends the process with 1: in one place, `failUnexpected`.
 */
import { Daemon } from './compose.ts';
import { daemonSurroundings, loadSettings, type Settings } from './config.ts';
import { DaemonError, EXIT_FAILED, isOperatingError, reasonOf, singleErrors } from './errors.ts';
import { parseFlags } from './flags.ts';
import { createLog, type Logger } from './log.ts';
import { createNotifier, type Notifier, reloadingMessage, startWatchdog } from './systemd.ts';
import { packageVersion } from './version.ts';

/** Exit code of an error that nobody expected, as Node's own. */
const EXIT_UNEXPECTED = 1;

/** Runs orion-lvmd with these arguments until it is told to stop; gives the exit code. */
export async function runDaemon(args: readonly string[]): Promise<number> {
  process.title = 'orion-lvmd';
  const parsed = parseFlags(args, packageVersion());
  if ('output' in parsed) {
    (parsed.exitCode === 0 ? process.stdout : process.stderr).write(parsed.output);
    return parsed.exitCode;
  }
  const load = (): Settings => loadSettings(parsed.flags, daemonSurroundings());
  return explained(async () => {
    const settings = load();
    if (parsed.flags.checkConfig === true) return sayChecked(settings);
    return serve({ settings, load });
  });
}

function sayChecked({ configFile }: Settings): number {
  process.stdout.write(`${configFile ?? 'no config file, the defaults'}: ok\n`);
  return 0;
}

/** Runs `work`; says what failed in plain words and gives the exit code. An error that nobody expected goes on. */
export async function explained(work: () => Promise<number>): Promise<number> {
  try {
    return await work();
  } catch (error) {
    if (!isOperatingError(error)) throw error;
    for (const line of error.message.split('\n')) process.stderr.write(`orion-lvmd: ${line}\n`);
    return error instanceof DaemonError ? error.exitCode : EXIT_FAILED;
  }
}

export interface ServeOptions {
  readonly settings: Settings;
  /** Reads the settings again, for SIGHUP. */
  readonly load: () => Settings;
  /** Told once, when clients can connect. */
  readonly onReady?: (daemon: Daemon) => void;
}

/** Serves until SIGTERM or SIGINT; gives the exit code. Throws the DaemonError of a start that fails. */
export async function serve({ settings, load, onReady }: ServeOptions): Promise<number> {
  const log = createLog({ level: settings.logLevel, format: settings.logFormat });
  const signals = new Signals(log);
  process.once('uncaughtException', (error, origin) => failUnexpected(log, error, origin));
  const notifier = createNotifier(process.env, log);
  const daemon = await Daemon.start(settings, log);
  signals.onSecondStop = (): void => daemon.kill();
  await notifier.notify('READY=1', `STATUS=${summary(daemon)}`);
  log.info({ pid: process.pid, config: settings.configFile }, `ready: ${summary(daemon)}`);
  onReady?.(daemon);
  const { env, pid } = process;
  const watchdog = startWatchdog({ env, pid, notifier, alive: () => daemon.alive(), log });
  while ((await signals.next()) === 'reload') await reload(daemon, load, notifier, log);
  watchdog.stop();
  return stop(daemon, notifier, log);
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
  #wake: () => void = () => undefined;
  /** What has to be ended besides this process. */
  onSecondStop: () => void = () => undefined;

  constructor(log: Logger) {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.on(signal, () => {
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
  }

  /** What to do next; reloads that were asked for during another one are one. */
  async next(): Promise<'reload' | 'stop'> {
    while (!this.#stop && !this.#reload) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await promise;
    }
    if (this.#stop) return 'stop';
    this.#reload = false;
    return 'reload';
  }
}
