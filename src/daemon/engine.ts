/**
 * How the daemon's devices are read and written: the engine, and which of them go past the page cache.
 *
 * Invariants
 *  - An engine that was asked for by name is there or the start fails; "auto" takes what there is and says so, once.
 *  - The lists decide before the general rule, `buffered_devices` first.
 */
import { matchesGlob } from 'node:path';
import { uringProblem } from '../block/uring.ts';
import type { Config } from './config-schema.ts';

/** Plain data, so that it can go to workers. */
export interface EngineSettings {
  readonly engine: 'uring' | 'threads';
  readonly direct: DirectRules;
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
  return { engine: asked === 'threads' || missing !== null ? 'threads' : 'uring', direct, note };
}

/** Whether the device at this path goes past the page cache. */
export function directOf(rules: DirectRules, path: string): boolean | 'auto' {
  if (rules.buffered.some((pattern) => matchesGlob(path, pattern))) return false;
  if (rules.direct.some((pattern) => matchesGlob(path, pattern))) return true;
  return rules.otherwise;
}
