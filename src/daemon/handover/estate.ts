/**
 * The descriptors that a daemon leaves to the process that follows it, with the numbers that they will have there.
 *
 * Invariant: what systemd has listened on is left as systemd's, everything else by what the settings call it.
 */
import type { DeviceClaim } from '../devices.ts';
import type { MetricsPlace } from '../metrics-server.ts';
import type { Settings } from '../config.ts';
import { takeInheritedSockets } from '../systemd.ts';
import { type Estate, FORMAT } from './messages.ts';
import type { FdList } from './successor.ts';

export interface Possessions {
  readonly settings: Pick<Settings, 'controlPath' | 'inheritedControl'>;
  readonly lockFd: number | null;
  readonly claims: readonly DeviceClaim[];
  readonly listeners: Estate['listeners'];
  readonly controlFd: number | null;
  readonly metrics: Required<MetricsPlace> | null;
}

/** Adds every descriptor to `fds`. */
export function estateOf(possessions: Possessions, fds: FdList): Estate {
  const { settings, lockFd, claims, listeners, controlFd, metrics } = possessions;
  const { controlPath, inheritedControl } = settings;
  return {
    format: FORMAT,
    controlPath,
    lock: lockFd === null ? null : fds.add(lockFd),
    claims: claims.map(({ identity, fd }) => ({ identity, fd: fds.add(fd) })),
    listeners: listeners.flatMap(({ uri, fd }) => (uri.startsWith('fd:') ? [] : [{ uri, fd: fds.add(fd) }])),
    control: inheritedControl !== null || controlFd === null ? null : fds.add(controlFd),
    metrics: metrics === null ? null : { ...metrics, fd: fds.add(metrics.fd) },
    systemd: takeInheritedSockets().map(({ fd, use }) => ({ fd: fds.add(fd), use })),
  };
}
