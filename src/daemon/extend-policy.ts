/**
 * When the daemon extends snapshots: what lvm.conf says, read again when the file has changed.
 *
 * Invariant: an lvm.conf that can't be read extends nothing, and is told once per change.
 */
import { statSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { loadSettings } from '../lvm/settings/load.ts';
import { reasonOf } from './errors.ts';
import type { Logger } from './log.ts';
import type { ExtendPolicy } from './snapshot-watch.ts';

const NOTHING: ExtendPolicy = { monitoring: false, threshold: 100 };

/** The policy as it is whenever it is asked for. */
export function extendPolicy(
  env: Readonly<Record<string, string | undefined>>,
  log: Pick<Logger, 'warn'>,
): () => ExtendPolicy {
  const systemDirectory = env['LVM_SYSTEM_DIR'] ?? '/etc/lvm';
  let known: { readonly stamp: string; readonly policy: ExtendPolicy } | null = null;
  return () => {
    const stamp = stampOf(join(systemDirectory, 'lvm.conf')) + stampOf(join(systemDirectory, 'lvmlocal.conf'));
    if (known?.stamp !== stamp) known = { stamp, policy: read(systemDirectory, log) };
    return known.policy;
  };
}

function stampOf(path: string): string {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat === undefined ? '-' : `${stat.ino} ${stat.size} ${stat.mtimeMs} `;
}

function read(systemDirectory: string, log: Pick<Logger, 'warn'>): ExtendPolicy {
  try {
    const settings = loadSettings({
      systemDirectory,
      configStrings: [],
      hostName: hostname(),
      warn: (line) => log.warn({ line }, 'lvm.conf'),
    });
    return {
      monitoring: settings.bool('activation/monitoring'),
      threshold: settings.int('activation/snapshot_autoextend_threshold') ?? NOTHING.threshold,
    };
  } catch (error) {
    log.warn({ reason: reasonOf(error) }, 'lvm.conf cannot be read: no snapshot is extended');
    return NOTHING;
  }
}
