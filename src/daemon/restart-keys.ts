/**
 * Which settings a running daemon can't change: they are told at a reload, and take effect at the next start or hand-over.
 *
 * Invariant: what is not named here is applied by a reload.
 */
import type { Settings } from './config.ts';

const FIXED: Readonly<Record<string, (settings: Settings) => unknown>> = {
  read_only: (settings) => settings.readOnly,
  listen: (settings) => settings.listen,
  control: (settings) => settings.controlPath,
  run_dir: (settings) => settings.runDir,
  socket_mode: (settings) => settings.socketMode,
  socket_group: (settings) => settings.socketGroup,
  audit: (settings) => settings.audit,
  'metrics.listen': (settings) => settings.metricsListen,
  workers: (settings) => settings.workers,
  engine: (settings) => settings.engine.engine,
  'direct, direct_devices, buffered_devices': (settings) => settings.engine.direct,
  busy_poll: (settings) => settings.engine.busyPoll,
  cache_size: (settings) => settings.engine.cache,
  io_scheduler: (settings) => settings.engine.scheduler,
  'log.format': (settings) => settings.logFormat,
  'tls.mode': ({ tls: { mode, material } }) => [mode, material === null],
  metadata_backup_interval: (settings) => settings.backups,
  limits: (settings) => settings.limits,
};

/** Keys of lvm.toml whose change can't be applied to a running daemon. */
export function restartKeys(before: Settings, after: Settings): readonly string[] {
  return Object.entries(FIXED)
    .filter(([, get]) => JSON.stringify(get(before)) !== JSON.stringify(get(after)))
    .map(([key]) => key);
}

/** What of the settings a reload applies. */
export function appliedBy(settings: Settings): Partial<Settings> {
  const { devices, rescanIntervalMs, activationList, systemId, extraSystemIds, logLevel, configFile } = settings;
  const { access, tls, exports, events, autoRecovery } = settings;
  const found = { devices, rescanIntervalMs, activationList, systemId, extraSystemIds, logLevel, configFile };
  return { ...found, access, tls, exports, events, autoRecovery };
}
