/**
 * Starting a worker as the settings say: a process of its own, or the same code in this one.
 *
 * Invariant: the workers share the bound on payload memory in equal parts.
 */
import type { Settings } from '../config.ts';
import type { Logger } from '../log.ts';
import { ForkedWorker } from './forked.ts';
import type { WorkerEvents, WorkerHost } from './host.ts';
import { LocalWorker } from './local.ts';
import type { WorkerSettings } from './worker.ts';

/** `lockFd`: what workers keep open as long as they live. Throws a WorkerError. */
export async function startWorker(
  settings: Settings,
  how: { readonly index: number; readonly events: WorkerEvents; readonly lockFd: number | null; readonly log: Logger },
): Promise<WorkerHost> {
  const { limits, workers, engine, logLevel, logFormat } = settings;
  const worker: WorkerSettings = {
    limits: { ...limits, maxBytes: Math.floor(limits.maxBytes / Math.max(workers, 1)) },
    engine,
    logLevel,
    logFormat,
  };
  const { index, events, lockFd, log } = how;
  return workers === 0
    ? new LocalWorker(worker, log, events)
    : ForkedWorker.start({ index, settings: worker, events, lockFd });
}
