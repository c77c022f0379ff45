/**
 * From flags, environment and lvm.toml to the settings that the daemon runs with.
 *
 * Invariants
 *  - Precedence: a flag, then the environment, then the file, then the default.
 *  - Settings are complete, absolute and accepted: whatever this build can't do was refused here, by name.
 *  - All problems are reported at once; nothing is opened or created here but the file that is read.
 *  - Relative paths: of flags and environment from the working directory, `devices` of the file from the file's directory,
 *    sockets of the file from the run-time directory.
 */
import { readFileSync } from 'node:fs';
import { availableParallelism, hostname } from 'node:os';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { parse as parseToml, TomlError } from 'smol-toml';
import { backupDirectory } from '../lvm/backup-directories.ts';
import { loadSettings as loadLvmSettings } from '../lvm/settings/load.ts';
import type { NbdServerLimits } from '../nbd/server.ts';
import { type AccessSettings, settleAccess } from './access-settings.ts';
import { Accounts } from './accounts.ts';
import { ALLOWED, checkConfig, type Config, defaultConfig, MAX_WORKERS } from './config-schema.ts';
import { codeOf, DaemonError, reasonOf } from './errors.ts';
import { type ExportsSettings, settleExports } from './export-settings.ts';
import { settleEngine, type SettledEngine } from './engine.ts';
import { type Flags, splitPaths } from './flags.ts';
import { LISTEN_URI_FORM, type ListenAddress, parseListenUri, socketPath } from './listen-uri.ts';
import { type InheritedSocket, takeInheritedSockets } from './systemd.ts';
import { checkListeners, settleTls, type TlsSettings } from './tls/settings.ts';

/** More cores than this are left to others, unless somebody says so. */
const MAX_DEFAULT_WORKERS = 4;

export interface Settings {
  /** Null: no file was found and defaults hold. */
  readonly configFile: string | null;
  /** auto_recovery: metadata that is stale or damaged is repaired as soon as it is seen. */
  readonly autoRecovery: boolean;
  /** Paths, directories and globs; empty: every block device. */
  readonly devices: readonly string[];
  readonly readOnly: boolean;
  readonly listen: readonly ListenAddress[];
  /** One client at the standard streams is served, and nobody else. */
  readonly stdio: boolean;
  readonly controlPath: string;
  /** The control socket's file descriptor, where systemd listens at it for us. */
  readonly inheritedControl: number | null;
  /** Made at start if it is missing; null where there is none (no root and no $XDG_RUNTIME_DIR) and none is needed. */
  readonly runDir: string | null;
  /** Permission bits of the unix sockets. */
  readonly socketMode: number;
  /** The unix sockets' group; null: the daemon's own. */
  readonly socketGroup: number | null;
  readonly systemId: string | null;
  readonly extraSystemIds: readonly string[];
  readonly logLevel: string;
  readonly logFormat: Config['log']['format'];
  /** "VG", "VG/LV", "@tag"; null: every volume. */
  readonly activationList: readonly string[] | null;
  /** Between scans for which there is no other reason; 0: none. */
  readonly rescanIntervalMs: number;
  /** Null: the daemon makes none. */
  readonly backups: { readonly directory: string; readonly intervalSeconds: number } | null;
  readonly limits: NbdServerLimits;
  /** Who carries requests out, and which devices go past the page cache. */
  readonly engine: SettledEngine;
  /** I/O worker processes; 0: everything in one process. */
  readonly workers: number;
  readonly access: AccessSettings;
  readonly exports: ExportsSettings;
  readonly tls: TlsSettings;
  /** Null: no audit log is kept. */
  readonly audit: { readonly path: string; readonly maxBytes: number } | null;
  /** Where GET /metrics is answered besides the control socket. */
  readonly metricsListen: { readonly host: string; readonly port: number } | null;
  readonly events: EventSettings;
  /** Settings that drive nothing in this build, each a sentence. */
  readonly withoutEffect: readonly string[];
}

/** [events]: what is worth an alert, and who is told. */
export interface EventSettings {
  readonly intervalMs: number;
  /** Percent; 0: never. */
  readonly volumeGroupFull: number;
  /** Percent; 0: never. */
  readonly snapshotFull: number;
  /** Seconds; 0: never. */
  readonly snapshotFullWithin: number;
  /** Errors between two looks; 0: never. */
  readonly deviceErrors: number;
  readonly command: readonly string[] | null;
  readonly webhook: string | null;
  readonly timeoutMs: number;
  readonly retries: number;
}

/** What settings depend on besides the flags; tests pass their own. */
export interface Surroundings {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  /** The effective user id. */
  readonly uid: number;
  /** The last file of the search. */
  readonly systemConfigFile: string;
  /** Users and groups. Default: the system's. */
  readonly accounts?: () => Accounts;
  /** Sockets that systemd handed to us. Default none. */
  readonly sockets?: readonly InheritedSocket[];
  /** Why there is no io_uring here, or null. Default: what the kernel says. */
  readonly uringProblem?: () => string | null;
}

export function processSurroundings(): Surroundings {
  return {
    env: process.env,
    cwd: process.cwd(),
    uid: process.geteuid?.() ?? -1,
    systemConfigFile: '/etc/orion-lvm/lvm.toml',
  };
}

/** The same for the daemon itself: with the sockets that systemd handed to it. Throws a DaemonError for wrong ones. */
export function daemonSurroundings(): Surroundings {
  return { ...processSurroundings(), sockets: takeInheritedSockets() };
}

/** Reads the config file, if there is one, and settles every setting. Throws a DaemonError BAD_CONFIG. */
export function loadSettings(flags: Flags, around: Surroundings): Settings {
  const file = readConfigFile(flags.config, around);
  const config = file?.config ?? defaultConfig();
  const problems: string[] = [];
  const settings = settle(config, file?.path ?? null, flags, around, problems);
  if (problems.length > 0) throw new DaemonError({ code: 'BAD_CONFIG', problems });
  return settings;
}

/**
 * The config file's path and values: --config, else $ORION_LVM_CONFIG (both must exist), else ./lvm.toml, else the
 * system's; null where there is none.
 */
export function readConfigFile(
  flag: string | undefined,
  around: Surroundings,
): { readonly path: string; readonly config: Config } | null {
  const demanded = flag ?? nonEmpty(around.env['ORION_LVM_CONFIG']);
  const candidates = demanded === undefined ? ['lvm.toml', around.systemConfigFile] : [demanded];
  for (const candidate of candidates) {
    const path = resolve(around.cwd, candidate);
    const text = readText(path, demanded !== undefined);
    if (text !== null) return { path, config: parseConfigText(text, path) };
  }
  return null;
}

function readText(path: string, demanded: boolean): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (!demanded && (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR')) return null;
    throw new DaemonError(
      { code: 'BAD_CONFIG', problems: [`cannot read the config file ${path}: ${reasonOf(error)}`] },
      { cause: error },
    );
  }
}

/** Parses and checks lvm.toml's text; `path` is for the messages. Throws a DaemonError BAD_CONFIG. */
export function parseConfigText(text: string, path: string): Config {
  let input: unknown;
  try {
    input = parseToml(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const reason = error.message.split('\n', 1)[0]?.replace(/^Invalid TOML document: /, '') ?? '';
    const problem = `${path}:${error.line}:${error.column}: not valid TOML: ${reason}`;
    throw new DaemonError({ code: 'BAD_CONFIG', problems: [problem] }, { cause: error });
  }
  const checked = checkConfig(input);
  if ('config' in checked) return checked.config;
  throw new DaemonError({ code: 'BAD_CONFIG', problems: checked.problems.map((problem) => `${path}: ${problem}`) });
}

function settle(
  config: Config,
  configFile: string | null,
  flags: Flags,
  around: Surroundings,
  problems: string[],
): Settings {
  refuseWorkers(flags, problems);
  const accounts = once(around.accounts ?? ((): Accounts => new Accounts()));
  const runDir = config.run_dir ?? defaultRunDir(around);
  const sockets = new SocketSettings(runDir, around.cwd, configFile ?? 'lvm.toml', problems);
  const inheritedControl = around.sockets?.find(({ use }) => use === 'control')?.fd ?? null;
  if (inheritedControl !== null && flags.control !== undefined) {
    problems.push('--control: systemd handed over a control socket: leave one of them out');
  }
  const listen = settleListen(config, flags, around, sockets);
  const directory = configFile === null ? around.cwd : dirname(configFile);
  const tls = settleTls(config, flags, { cwd: around.cwd, directory }, problems);
  checkListeners(tls, listen, problems);
  if (flags.stdio === true && (flags.listen !== undefined || (around.sockets ?? []).some(({ use }) => use === 'nbd'))) {
    problems.push('--stdio: one client is served, and there are sockets to listen on: leave one of them out');
  }
  const inFile: string[] = [];
  const settings: Settings = {
    configFile,
    autoRecovery: config.auto_recovery,
    devices: settleDevices(config, configFile, flags, around, problems),
    readOnly: flags.readOnly ?? config.read_only,
    listen,
    stdio: flags.stdio ?? false,
    // Several that serve one client each don't share a socket, nor that of a daemon with listeners.
    controlPath: sockets.control(flags.control, flags.stdio === true ? `stdio-${process.pid}.sock` : config.control),
    inheritedControl,
    runDir,
    socketMode: Number.parseInt(config.socket_mode, 8),
    socketGroup: settleGroup(config, accounts, inFile),
    systemId: config.system_id ?? null,
    extraSystemIds: config.extra_system_ids,
    logLevel: flags.logLevel ?? config.log.level,
    logFormat: config.log.format,
    activationList: config.activation.auto_activation_volume_list ?? null,
    rescanIntervalMs: config.rescan_interval * 1000,
    backups: settleBackups(config, around),
    engine: settleEngine(
      flags.engine ?? config.engine,
      flags.engine === undefined ? `${configFile ?? 'lvm.toml'}: engine` : '--engine',
      config,
      (path) => resolve(configFile === null ? around.cwd : dirname(configFile), path),
      problems,
      around.uringProblem,
    ),
    workers:
      flags.workers ??
      (flags.stdio === true ? 0 : config.workers) ??
      Math.min(availableParallelism(), MAX_DEFAULT_WORKERS),
    limits: {
      maxConnections: config.limits.connections,
      maxRequestsPerConnection: config.limits.requests_in_flight,
      maxBytesPerConnection: config.limits.bytes_in_flight,
      maxBytes: config.limits.total_bytes_in_flight,
      maxHandshakes: config.limits.handshakes,
      handshakeTimeoutMs: config.limits.handshake_timeout * 1000,
      drainTimeoutMs: config.limits.drain_timeout * 1000,
    },
    access: settleAccess(config.access, accounts, inFile),
    exports: settleExports(config, inFile),
    tls,
    audit: config.audit.file === undefined ? null : { path: config.audit.file, maxBytes: config.audit.max_size },
    metricsListen: settleMetrics(config, inFile),
    events: settleEvents(config),
    withoutEffect: withoutEffect(config),
  };
  problems.push(...inFile.map((problem) => `${configFile ?? 'lvm.toml'}: ${problem}`));
  return settings;
}

/** Sockets that systemd handed over stand in the file's place; --listen adds to them. */
function settleListen(
  config: Config,
  flags: Flags,
  around: Surroundings,
  sockets: SocketSettings,
): readonly ListenAddress[] {
  if (flags.stdio === true) return [];
  const inherited = (around.sockets ?? [])
    .filter(({ use }) => use === 'nbd')
    .map(({ fd }) => ({ kind: 'inherited' as const, fd }));
  if (flags.listen !== undefined) return [...inherited, ...flags.listen.flatMap((uri) => sockets.flag(uri))];
  return inherited.length > 0 ? inherited : config.listen.flatMap((uri) => sockets.key(uri));
}

/** Accounts are read only where a name has to be looked up. */
function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | null = null;
  return () => (made ??= { value: make() }).value;
}

function settleGroup({ socket_group: name }: Config, accounts: () => Accounts, problems: string[]): number | null {
  if (name === undefined) return null;
  const gid = accounts().gid(name);
  if (gid === null) problems.push(`socket_group: "${name}" is not allowed: this host has no group ${name}`);
  return gid;
}

function settleMetrics({ metrics }: Config, problems: string[]): Settings['metricsListen'] {
  if (metrics.listen === undefined) return null;
  const parsed = parseListenUri(metrics.listen, '/');
  if ('kind' in parsed && parsed.kind === 'tcp') return { host: parsed.host, port: parsed.port };
  const problem = 'problem' in parsed ? parsed.problem : 'it is no TCP address';
  problems.push(`metrics.listen: "${metrics.listen}" is not allowed: ${problem}`);
  return null;
}

function settleEvents({ events }: Config): EventSettings {
  return {
    intervalMs: events.interval * 1000,
    volumeGroupFull: events.volume_group_full,
    snapshotFull: events.snapshot_full,
    snapshotFullWithin: events.snapshot_full_within,
    deviceErrors: events.device_errors,
    command: events.command ?? null,
    webhook: events.webhook ?? null,
    timeoutMs: events.timeout * 1000,
    retries: events.retries,
  };
}

/** What the file asks for and this build has nothing for: said at the start, never passed over. */
function withoutEffect(config: Config): readonly string[] {
  const { cache_size: size, cache_policy: policy, journal_size: journal } = config;
  return [
    ...(size > 0 && policy === 'none' ? ['cache_size has no effect: cache_policy is "none"'] : []),
    ...(size === 0 && policy !== 'none' ? ['cache_policy has no effect: cache_size is 0'] : []),
    ...(journal > 0 ? ['journal_size has no effect in this build: no journal is kept'] : []),
  ];
}

/** In the directory where commands keep theirs. */
function settleBackups(config: Config, { env, uid }: Surroundings): Settings['backups'] {
  if (config.metadata_backup_interval === 0) return null;
  const lvm = loadLvmSettings({
    systemDirectory: env['LVM_SYSTEM_DIR'] ?? '/etc/lvm',
    configStrings: [],
    hostName: hostname(),
    warn: () => undefined,
  });
  return { directory: backupDirectory(lvm, { env, uid }), intervalSeconds: config.metadata_backup_interval };
}

/** Values that the design names and that this build can't honour are errors, never ignored. */
function refuseWorkers(flags: Flags, problems: string[]): void {
  const workers = flags.workers ?? 0;
  if (workers > MAX_WORKERS) problems.push(`--workers: ${workers} is not allowed: it must be ${ALLOWED['workers']}`);
}

function settleDevices(
  config: Config,
  configFile: string | null,
  flags: Flags,
  around: Surroundings,
  problems: string[],
): readonly string[] {
  const fromEnvironment = nonEmpty(around.env['ORION_LVM_DEVICES']);
  const given = flags.devices ?? (fromEnvironment === undefined ? undefined : splitPaths(fromEnvironment));
  if (given !== undefined) {
    const place = flags.devices === undefined ? '$ORION_LVM_DEVICES' : '--devices';
    if (given.length === 0) problems.push(`${place}: no path in it: it must be a list of paths separated by commas`);
    return given.map((path) => resolve(around.cwd, path));
  }
  if (config.devices.length === 0 && around.uid !== 0) {
    problems.push(
      'no devices to serve: give --devices, $ORION_LVM_DEVICES or devices in lvm.toml (only root serves every block device)',
    );
  }
  const base = configFile === null ? around.cwd : dirname(configFile);
  return config.devices.map((path) => resolve(base, path));
}

function defaultRunDir(around: Surroundings): string | null {
  if (around.uid === 0) return '/run/orion-lvm';
  const user = nonEmpty(around.env['XDG_RUNTIME_DIR']);
  return user !== undefined && isAbsolute(user) ? join(user, 'orion-lvm') : null;
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === '' ? undefined : text;
}

/** Resolves socket addresses of flags (from the working directory) and of the file (from the run-time directory). */
class SocketSettings {
  readonly #runDir: string | null;
  readonly #cwd: string;
  readonly #configFile: string;
  readonly #problems: string[];

  constructor(runDir: string | null, cwd: string, configFile: string, problems: string[]) {
    this.#runDir = runDir;
    this.#cwd = cwd;
    this.#configFile = configFile;
    this.#problems = problems;
  }

  flag(uri: string): ListenAddress[] {
    return this.#accept('--listen', uri, parseListenUri(uri, this.#cwd));
  }

  key(uri: string): ListenAddress[] {
    const path = uri.startsWith('unix:') ? uri.slice('unix:'.length) : '/';
    if (!this.#hasDirectory('listen', path)) return [];
    return this.#accept(`${this.#configFile}: listen`, uri, parseListenUri(uri, this.#runDir ?? '/'));
  }

  control(flag: string | undefined, key: string): string {
    if (flag === undefined && !this.#hasDirectory('control', key)) return '';
    const result = flag === undefined ? socketPath(key, this.#runDir ?? '/') : socketPath(flag, this.#cwd);
    if ('path' in result) return result.path;
    const place = flag === undefined ? `${this.#configFile}: control` : '--control';
    this.#problems.push(`${place}: ${JSON.stringify(flag ?? key)} is not allowed: ${result.problem}`);
    return '';
  }

  #hasDirectory(key: string, path: string): boolean {
    if (isAbsolute(path) || this.#runDir !== null) return true;
    this.#problems.push(
      `${key}: "${path}" is in the run-time directory and there is none ($XDG_RUNTIME_DIR is not set): set run_dir, or give --listen and --control`,
    );
    return false;
  }

  #accept(place: string, uri: string, parsed: ListenAddress | { readonly problem: string }): ListenAddress[] {
    if ('kind' in parsed) return [parsed];
    this.#problems.push(
      `${place}: ${JSON.stringify(uri)} is not allowed: ${parsed.problem}; it must be ${LISTEN_URI_FORM}`,
    );
    return [];
  }
}
