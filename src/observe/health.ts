/**
 * What is worth an alert: looks at the daemon's numbers from time to time and says what was raised and what is over. Pure but for
 * its memory; time comes from the caller.
 *
 * Invariants
 *  - An alert is raised once and cleared once, however often its cause is looked at.
 *  - What is near a threshold doesn't flap: fullness clears FULL_MARGIN percent below, the time to full at FILLING_MARGIN times as
 *    much, what happens (errors, restarts) clears after QUIET_MS without it.
 *  - What is gone (a volume group that was removed) clears its alerts; what only is not known now (a worker does not answer, or is being
 *    started again) neither raises nor clears any.
 *  - Times between two looks are the caller's steady clock's: one that is set raises and clears nothing.
 */
import { failures, type Numbers } from './stats.ts';

export const ALERT_KINDS = [
  'volume-group-full',
  'device-errors',
  'metadata-degraded',
  'export-unserved',
  'snapshot-full',
  'snapshot-filling',
  'snapshot-invalid',
  'snapshot-not-extended',
  'merge-stopped',
  'worker-restarted',
  'metadata-changed',
  'audit-failed',
] as const;
export type AlertKind = (typeof ALERT_KINDS)[number];

export interface Alert {
  readonly kind: AlertKind;
  /** What it is about: a VG, a device's path, VG/LV, "worker 1". */
  readonly subject: string;
  readonly state: 'raised' | 'cleared';
  /** For people. */
  readonly text: string;
  /** ISO 8601. */
  readonly time: string;
}

export interface HealthThresholds {
  /** Percent of a VG's extents; 0: never. */
  readonly volumeGroupFull: number;
  /** Percent of a snapshot's COW store; 0: never. */
  readonly snapshotFull: number;
  /** Seconds in which a snapshot's COW store will be full at the present rate; 0: never. */
  readonly snapshotFullWithin: number;
  /** Errors of a device between two looks; 0: never. */
  readonly deviceErrors: number;
}

/** What is looked at besides the numbers. */
export interface HealthView {
  readonly numbers: Numbers;
  /** Milliseconds of a clock that is never set. */
  readonly now: number;
  /** The numbers have every volume that is served: no worker is missing in them. */
  readonly complete: boolean;
  /** Volumes that ought to be served and aren't, with the reason. */
  readonly unserved: readonly { readonly name: string; readonly reason: string }[];
  /** COW snapshots that are served and no snapshots any more, with the reason. */
  readonly invalidSnapshots: readonly { readonly name: string; readonly reason: string }[];
  /** Snapshots whose store could not be extended, origins whose merge has stopped. */
  readonly snapshotProblems?: readonly {
    readonly kind: 'snapshot-not-extended' | 'merge-stopped';
    readonly name: string;
    readonly reason: string;
  }[];
  /** Why the audit log can't be written; null: it can, or there is none. */
  readonly auditProblem: string | null;
}

export const FULL_MARGIN = 5;
/** The time to full ends its alert when it is so many times the threshold. */
export const FILLING_MARGIN = 2;
export const QUIET_MS: number = 10 * 60 * 1000;

interface Raised {
  readonly kind: AlertKind;
  readonly subject: string;
  /** When it was last seen, for what happens rather than is. */
  lastSeen: number;
}

/** What one look finds: `holds` keeps an alert raised that is not raised anew. */
interface Finding {
  readonly kind: AlertKind;
  readonly subject: string;
  readonly text: string;
  readonly raises: boolean;
}

const PROBLEM_TEXTS = {
  'snapshot-not-extended': (name: string) => `the store of snapshot ${name} is filling up and could not be extended`,
  'merge-stopped': (name: string) => `the merge of a snapshot into ${name} has stopped`,
} as const;

/** Kinds that happen; the others are as long as they are found. */
const EVENTS: ReadonlySet<AlertKind> = new Set<AlertKind>(['device-errors', 'worker-restarted']);

/** Kinds that only workers know of. */
const OF_WORKERS: ReadonlySet<AlertKind> = new Set<AlertKind>([
  'snapshot-full',
  'snapshot-filling',
  'snapshot-invalid',
]);

export class HealthMonitor {
  readonly #thresholds: () => HealthThresholds;
  readonly #raised = new Map<string, Raised>();
  readonly #deviceErrors = new Map<string, number>();
  readonly #restarts = new Map<number, number>();

  /** `thresholds` is asked at every look, so that a reload holds. */
  constructor(thresholds: () => HealthThresholds) {
    this.#thresholds = thresholds;
  }

  /** What changed since the last look. */
  look(view: HealthView): readonly Alert[] {
    const { now, complete } = view;
    const { time } = view.numbers;
    const findings = [
      ...this.#fullGroups(view.numbers),
      ...this.#fullSnapshots(view.numbers),
      ...this.#fillingSnapshots(view.numbers),
      ...degradedGroups(view.numbers),
      ...(complete ? this.#failingDevices(view.numbers) : []),
      ...this.#restartedWorkers(view.numbers),
      ...view.unserved.map(({ name, reason }) => finding('export-unserved', name, `${name} is not served: ${reason}`)),
      ...(view.snapshotProblems ?? []).map(({ kind, name, reason }) =>
        finding(kind, name, `${PROBLEM_TEXTS[kind](name)}: ${reason}`),
      ),
      ...view.invalidSnapshots.map(({ name, reason }) =>
        finding('snapshot-invalid', name, `snapshot ${name} is invalid: ${reason}; its data are lost, remove it`),
      ),
      ...(view.auditProblem === null ? [] : [finding('audit-failed', 'audit log', view.auditProblem)]),
    ];
    const alerts = findings.flatMap((found) => this.#raise(found, view));
    const found = new Set(findings.map(keyOf));
    for (const [key, raised] of this.#raised) {
      if (!complete && OF_WORKERS.has(raised.kind)) continue;
      const over = EVENTS.has(raised.kind) ? now - raised.lastSeen >= QUIET_MS : !found.has(key);
      if (!over) continue;
      this.#raised.delete(key);
      const { kind, subject } = raised;
      alerts.push(alertOf(kind, subject, 'cleared', `${subject}: ${CLEARED[kind]}`, time));
    }
    return alerts;
  }

  #raise(found: Finding, { now, numbers: { time } }: HealthView): Alert[] {
    const key = keyOf(found);
    const known = this.#raised.get(key);
    if (known !== undefined) {
      known.lastSeen = now;
      return [];
    }
    if (!found.raises) return [];
    const { kind, subject, text } = found;
    this.#raised.set(key, { kind, subject, lastSeen: now });
    return [alertOf(kind, subject, 'raised', text, time)];
  }

  #fullGroups({ groups }: Numbers): Finding[] {
    const threshold = this.#thresholds().volumeGroupFull;
    if (threshold === 0) return [];
    return groups.flatMap(({ name, extents, freeExtents }) => {
      const percent = extents === 0 ? 0 : ((extents - freeExtents) / extents) * 100;
      if (percent < threshold - FULL_MARGIN || percent === 0) return [];
      const text = `volume group ${name} is ${percent.toFixed(1)}% full: ${freeExtents} of ${extents} extents are free`;
      return [{ kind: 'volume-group-full', subject: name, text, raises: percent >= threshold }];
    });
  }

  #fullSnapshots({ snapshots }: Numbers): Finding[] {
    const threshold = this.#thresholds().snapshotFull;
    if (threshold === 0) return [];
    return snapshots.flatMap(({ name, valid, percent, usedBytes, totalBytes }) => {
      if (!valid || percent === null || percent < threshold - FULL_MARGIN) return [];
      const text = `the store of snapshot ${name} is ${percent.toFixed(1)}% full: ${usedBytes} of ${totalBytes} bytes`;
      return [{ kind: 'snapshot-full', subject: name, text, raises: percent >= threshold }];
    });
  }

  #fillingSnapshots({ snapshots }: Numbers): Finding[] {
    const within = this.#thresholds().snapshotFullWithin;
    return snapshots.flatMap(({ name, secondsToFull, bytesPerSecond }) => {
      if (secondsToFull === null || secondsToFull >= within * FILLING_MARGIN) return [];
      const rate = `${Math.round(bytesPerSecond)} bytes per second`;
      const text = `the store of snapshot ${name} will be full in ${Math.round(secondsToFull)} s at ${rate}`;
      return [{ kind: 'snapshot-filling', subject: name, text, raises: secondsToFull < within }];
    });
  }

  #failingDevices({ devices }: Numbers): Finding[] {
    const threshold = this.#thresholds().deviceErrors;
    const found = devices.flatMap(({ path, io }) => {
      const total = failures(io);
      const before = this.#deviceErrors.get(path) ?? 0;
      this.#deviceErrors.set(path, total);
      // A smaller number is a worker that counts anew.
      const since = total < before ? total : total - before;
      if (threshold === 0 || since < threshold) return [];
      return [finding('device-errors', path, `${path}: ${since} requests failed, ${total} since it was opened`)];
    });
    const known = new Set(devices.map(({ path }) => path));
    for (const path of this.#deviceErrors.keys()) if (!known.has(path)) this.#deviceErrors.delete(path);
    return found;
  }

  #restartedWorkers({ workers }: Numbers): Finding[] {
    return workers.flatMap(({ index, restarts }) => {
      const before = this.#restarts.get(index) ?? 0;
      this.#restarts.set(index, restarts);
      if (restarts <= before) return [];
      return [finding('worker-restarted', `worker ${index}`, `I/O worker ${index} died and was started again`)];
    });
  }
}

const CLEARED: Readonly<Record<AlertKind, string>> = {
  'volume-group-full': 'there is room again',
  'device-errors': 'no request failed for ten minutes',
  'metadata-degraded': 'every copy of the metadata is good again',
  'export-unserved': 'it is served, or gone',
  'snapshot-full': 'it has room again, or is gone',
  'snapshot-filling': 'it fills up slower, or is gone',
  'snapshot-invalid': 'it is gone',
  'snapshot-not-extended': 'it has room again, or is gone',
  'merge-stopped': 'it has ended, or goes on',
  'worker-restarted': 'it has been running for ten minutes',
  'metadata-changed': 'it was read again',
  'audit-failed': 'it can be written again',
};

function degradedGroups({ groups }: Numbers): Finding[] {
  return groups.flatMap(({ name, missingPhysicalVolumes, physicalVolumes, staleCopies }) => {
    if (missingPhysicalVolumes === 0 && staleCopies === 0) return [];
    const parts = [
      ...(missingPhysicalVolumes > 0
        ? [`${missingPhysicalVolumes} of ${physicalVolumes} physical volumes are missing`]
        : []),
      ...(staleCopies > 0 ? [`${staleCopies} copies of the metadata are stale or unreadable`] : []),
    ];
    return [finding('metadata-degraded', name, `volume group ${name}: ${parts.join(', ')}`)];
  });
}

function finding(kind: AlertKind, subject: string, text: string): Finding {
  return { kind, subject, text, raises: true };
}

function keyOf({ kind, subject }: Pick<Finding, 'kind' | 'subject'>): string {
  return `${kind} ${subject}`;
}

/** `now` in milliseconds since 1970. */
export function alertOf(kind: AlertKind, subject: string, state: Alert['state'], text: string, now: number): Alert {
  return { kind, subject, state, text, time: new Date(now).toISOString() };
}
