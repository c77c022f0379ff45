/**
 * What LVM2 has lvmpolld and dmeventd for: the daemon sees that a merge has come to its end and has the snapshot removed, and that a
 * snapshot's store fills up and has it extended, as snapshot_autoextend_threshold and _percent of lvm.conf say. Both are commands of
 * its own (commands/own.ts).
 *
 *     merged       lvpoll --polloperation merge VG/ORIGIN
 *     too full     lvextend --use-policies VG/SNAPSHOT
 *
 * Invariants
 *  - Nothing waits for a client: a merge that was begun by anybody, before a restart too, is ended.
 *  - One command per volume at a time. One that changed nothing is tried again only when something has changed: the metadata of the
 *    volume group, or the fullness by STEP percent; a merge's end, which must come, also after a pause.
 *  - With activation/monitoring = 0 nothing is extended; merges end all the same.
 */
import type { VolumeId } from '../lvm/live.ts';
import { snapshotPercent, type SnapshotStatus, snapshotStatusOf } from '../lvm/snapshot-status.ts';
import { type OwnOutcome, ownRequest, type OwnRunner, type OwnSurroundings, runOwn } from './commands/own.ts';
import { ignoreGone } from './group-change.ts';
import type { Logger } from './log.ts';
import { groupOf } from './served-volume.ts';
import type { WorkerHost } from './worker/host.ts';

const LOOK_MS = 1000;
const MERGE_LOOK_MS = 200;
/** As much fuller a snapshot has to be for another attempt. */
const STEP = 5;
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 60_000;
/** LVM2 takes a smaller threshold for this one. */
const LEAST_THRESHOLD = 50;

/** A snapshot that is served, or an origin that takes one in. */
export interface ServedSnapshot {
  readonly id: VolumeId;
  /** "VG/LV" */
  readonly name: string;
  readonly merges: boolean;
  readonly host: Pick<WorkerHost, 'volumeStatus'>;
}

/** lvm.conf, section activation. */
export interface ExtendPolicy {
  readonly monitoring: boolean;
  /** Percent; from 100 on nothing is extended. */
  readonly threshold: number;
}

export interface SnapshotWatchOptions {
  readonly served: () => readonly ServedSnapshot[];
  readonly policy: () => ExtendPolicy;
  /** Of a VG by its uuid; null: not known. */
  readonly seqnoOf: (vgId: string) => number | null;
  readonly runner: OwnRunner;
  readonly own: () => OwnSurroundings;
  readonly log: Logger;
}

export interface SnapshotProblem {
  readonly kind: 'snapshot-not-extended' | 'merge-stopped';
  readonly name: string;
  readonly reason: string;
}

/** What came of the last command for a volume. */
interface Attempt {
  running: boolean;
  percent: number;
  seqno: number | null;
  totalSectors: number;
  pauseMs: number;
  /** When it may be tried again though nothing has changed. */
  again: number;
}

export class SnapshotWatch {
  readonly #options: SnapshotWatchOptions;
  readonly #attempts = new Map<VolumeId, Attempt>();
  readonly #problems = new Map<VolumeId, SnapshotProblem>();
  #timer: NodeJS.Timeout | null = null;
  #looking: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(options: SnapshotWatchOptions) {
    this.#options = options;
  }

  start(): void {
    this.#later(MERGE_LOOK_MS);
  }

  /** What is wrong now, for alerts. */
  get problems(): readonly SnapshotProblem[] {
    return [...this.#problems.values()];
  }

  async close(): Promise<void> {
    this.#closed = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    await this.#looking;
  }

  #later(ms: number): void {
    if (this.#closed) return;
    this.#timer = setTimeout(() => {
      this.#looking = this.look()
        .catch((err: unknown) => this.#options.log.error({ err }, 'a look at the snapshots failed'))
        .finally(() => this.#later(this.#options.served().some(({ merges }) => merges) ? MERGE_LOOK_MS : LOOK_MS));
    }, ms);
    this.#timer.unref();
  }

  /** Looks at every snapshot that there may be something to do for. */
  async look(): Promise<void> {
    const served = this.#options.served();
    const ids = new Set(served.map(({ id }) => id));
    for (const map of [this.#attempts, this.#problems]) for (const id of map.keys()) if (!ids.has(id)) map.delete(id);
    const { monitoring, threshold } = this.#options.policy();
    const extends_ = monitoring && threshold < 100;
    const watched = served.filter(({ id, merges }) => (merges || extends_) && this.#attempts.get(id)?.running !== true);
    await Promise.all(watched.map((snapshot) => this.#lookAt(snapshot, Math.max(threshold, LEAST_THRESHOLD))));
  }

  async #lookAt(snapshot: ServedSnapshot, threshold: number): Promise<void> {
    const status = await statusOf(snapshot);
    if (status === null || this.#closed) return;
    if (snapshot.merges) this.#lookAtMerge(snapshot, status);
    else this.#lookAtFullness(snapshot, status, threshold);
  }

  #lookAtMerge({ id, name }: ServedSnapshot, { state, merged, problem }: SnapshotStatus): void {
    if (state === 'invalid' || state === 'merge-failed') {
      const reason = problem ?? (state === 'invalid' ? 'the snapshot is invalid' : 'a device failed');
      this.#problems.set(id, { kind: 'merge-stopped', name, reason });
    } else if (state === 'valid') this.#problems.delete(id);
    if (state !== 'valid' || merged !== true) return;
    const before = this.#attempts.get(id);
    if (before !== undefined && performance.now() < before.again) return;
    const attempt = this.#begin(id, { percent: 0, totalSectors: 0 });
    void this.#run(attempt, 'lvpoll', ['--polloperation', 'merge', '--interval', '0', name]).then((outcome) => {
      const { log } = this.#options;
      if (outcome?.code === 0) log.info({ lv: name }, 'a snapshot was merged into it');
      else if (outcome !== null) log.error({ lv: name, ...outcome }, 'the end of a merge could not be committed');
    });
  }

  #lookAtFullness({ id, name }: ServedSnapshot, status: SnapshotStatus, threshold: number): void {
    const percent = snapshotPercent(status);
    const { totalSectors } = status;
    if (status.state !== 'valid' || percent === null || percent <= threshold) {
      this.#attempts.delete(id);
      this.#problems.delete(id);
      return;
    }
    const before = this.#attempts.get(id);
    const seqno = this.#options.seqnoOf(groupOf(id));
    const same = before !== undefined && before.seqno === seqno && before.totalSectors === totalSectors;
    if (same && percent < before.percent + STEP) return;
    const attempt = this.#begin(id, { percent, totalSectors });
    void this.#run(attempt, 'lvextend', ['--use-policies', name]).then((outcome) => {
      // The commit of another command, or our own.
      attempt.seqno = this.#options.seqnoOf(groupOf(id));
      const { log } = this.#options;
      if (outcome === null) this.#attempts.delete(id);
      else if (outcome.code === 0) {
        this.#problems.delete(id);
        log.info({ lv: name, percent }, 'the store of a snapshot was extended');
      } else {
        const reason = outcome.said.join('; ') || `lvextend ended with ${outcome.code}`;
        this.#problems.set(id, { kind: 'snapshot-not-extended', name, reason });
        log.error({ lv: name, percent, ...outcome }, 'the store of a snapshot could not be extended');
      }
    });
  }

  #begin(id: VolumeId, facts: Pick<Attempt, 'percent' | 'totalSectors'>): Attempt {
    const before = this.#attempts.get(id)?.pauseMs ?? FIRST_PAUSE_MS / 2;
    const pauseMs = Math.min(before * 2, LONGEST_PAUSE_MS);
    const attempt = { ...facts, running: true, seqno: this.#options.seqnoOf(groupOf(id)), pauseMs, again: 0 };
    this.#attempts.set(id, attempt);
    return attempt;
  }

  async #run(attempt: Attempt, name: string, argv: readonly string[]): Promise<OwnOutcome | null> {
    const { runner, own } = this.#options;
    const outcome = await runOwn(runner, ownRequest(own(), name, argv));
    attempt.running = false;
    attempt.again = performance.now() + attempt.pauseMs;
    return outcome;
  }
}

/** Null: it is not there, or its worker has just gone. */
async function statusOf({ id, host }: ServedSnapshot): Promise<SnapshotStatus | null> {
  try {
    const volume = await host.volumeStatus(id);
    return volume === null ? null : snapshotStatusOf(volume.lines);
  } catch (error) {
    ignoreGone(error);
    return null;
  }
}
