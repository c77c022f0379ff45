/**
 * How the daemon's devices are read and written: the engine, which of them go past the page cache, and what stands before those.
 *
 * Invariants
 *  - An engine that was asked for by name is there or the start fails; "auto" takes what there is and says so, once.
 *  - The lists decide before the general rule, `buffered_devices` first.
 */
import { matchesGlob } from 'node:path';
import { BlockCache } from '../block/cache/block-cache.ts';
import { DeadlineDevice } from '../block/deadline.ts';
import type { OpenedDevice } from '../block/device.ts';
import { uringProblem } from '../block/uring.ts';
import type { Config } from './config-schema.ts';

/** Plain data, so that it can go to workers. */
export interface EngineSettings {
  readonly engine: 'uring' | 'threads';
  readonly direct: DirectRules;
  /** Before the devices that go past the page cache, in each process that has them open; null: nothing. */
  readonly cache: CacheSettings | null;
  readonly scheduler: 'none' | 'deadline';
  /** Microseconds for which a process looks for the next request before it sleeps; 0: it sleeps at once. */
  readonly busyPoll: number;
}

export interface CacheSettings {
  /** Bytes of blocks in each process. */
  readonly sizeBytes: number;
  readonly policy: 'writethrough' | 'writeback';
}

export interface DirectRules {
  /** For devices in neither list. */
  readonly otherwise: boolean | 'auto';
  /** Absolute paths or glob patterns. */
  readonly direct: readonly string[];
  readonly buffered: readonly string[];
}

export interface SettledEngine extends EngineSettings {
  /** What "auto" had to do without; null if nothing. */
  readonly note: string | null;
}

/**
 * Settles the engine. `from` names where it was asked for; `absolute` makes a path of the file absolute; `problem` says why there
 * is no io_uring.
 */
export function settleEngine(
  asked: Config['engine'],
  from: string,
  config: Config,
  absolute: (path: string) => string,
  problems: string[],
  problem: () => string | null = uringProblem,
): SettledEngine {
  const direct = {
    otherwise: config.direct,
    direct: config.direct_devices.map(absolute),
    buffered: config.buffered_devices.map(absolute),
  };
  const missing = asked === 'threads' ? null : problem();
  if (missing !== null && asked === 'uring') {
    problems.push(`${from}: "uring" is not possible here: io_uring: ${missing}: use "auto" or "threads"`);
  }
  const note = missing === null ? null : `io_uring is not available (${missing}): devices are served by threads`;
  return {
    engine: asked === 'threads' || missing !== null ? 'threads' : 'uring',
    direct,
    cache: settleCache(config),
    scheduler: config.io_scheduler,
    busyPoll: config.busy_poll,
    note,
  };
}

/** Whether the device at this path goes past the page cache. */
export function directOf(rules: DirectRules, path: string): boolean | 'auto' {
  if (rules.buffered.some((pattern) => matchesGlob(path, pattern))) return false;
  if (rules.direct.some((pattern) => matchesGlob(path, pattern))) return true;
  return rules.otherwise;
}

function settleCache({ cache_size: sizeBytes, cache_policy: policy }: Config): CacheSettings | null {
  return policy === 'none' || sizeBytes === 0 ? null : { sizeBytes, policy };
}

/** An opened device with what the settings put before it. */
export function dressed(
  device: OpenedDevice,
  cache: BlockCache | null,
  { scheduler }: Pick<EngineSettings, 'scheduler'>,
): OpenedDevice {
  // The kernel has a cache and an order of its own for what goes through the page cache.
  if (device.limits.requestAlignment === 1) return device;
  const ordered = scheduler === 'deadline' ? new DeadlineDevice(device) : device;
  return cache === null ? ordered : cache.attach(ordered);
}

/** The cache of this process. */
export function cacheOf({ cache, scheduler }: Pick<EngineSettings, 'cache' | 'scheduler'>): BlockCache | null {
  return cache === null ? null : new BlockCache({ ...cache, scheduler });
}
