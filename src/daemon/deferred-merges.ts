/**
 * Merges that wait because somebody had the origin or the snapshot open: until the origin is deactivated, or refreshed while nobody
 * has them open. A note beside the control socket keeps one waiting over a restart of the daemon while the kernel has the volumes
 * attached, as a file system may be mounted on them; a boot ends it, as it ends all that was open.
 *
 * Invariants
 *  - The note is there before the metadata says that the snapshot merges: a daemon that is killed in between does not begin the merge.
 *  - A merge that has begun never waits again: it begins when its note has gone.
 *  - A merge that the metadata don't know (any more) does not stay noted: another one into the same origin would wait for nothing.
 */
import { closeSync, constants, mkdirSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { z } from 'zod';
import { mergesOf } from '../lvm/deferred-merges.ts';
import type { DeferredMerge, VolumeId } from '../lvm/live.ts';
import type { VolumeGroup } from '../lvm/model.ts';
import { reasonOf } from './errors.ts';
import type { Logger } from './log.ts';
import { groupOf } from './served-volume.ts';

const { O_RDONLY, O_WRONLY, O_CREAT, O_TRUNC, O_NOFOLLOW, O_NONBLOCK } = constants;
/** The directory may be one where others make links and pipes: neither is followed, nor waited for. */
const READ_FLAGS = O_RDONLY | O_NOFOLLOW | O_NONBLOCK;
const WRITE_FLAGS = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK;
const NOTES = z.array(z.strictObject({ origin: z.string(), cow: z.string() }));

export interface DeferredOptions {
  /** Where they are noted; null: nowhere. */
  readonly path: string | null;
  /** Whether a volume is served. */
  readonly isServed: (id: VolumeId) => boolean;
  readonly log: Logger;
}

interface Waiting extends DeferredMerge {
  /** It was seen served: when it no longer is, its next activation is the one. */
  seen: boolean;
}

export class DeferredMerges {
  readonly #options: DeferredOptions;
  #waiting: ReadonlyMap<VolumeId, Waiting> = new Map<VolumeId, Waiting>();

  constructor(options: DeferredOptions) {
    this.#options = options;
  }

  /** At the start: of what was noted, what is attached goes on waiting. */
  restore(isAttached: (id: VolumeId) => boolean): void {
    const noted = this.#read();
    const attached = noted.filter(({ origin, cow }) => isAttached(origin) || isAttached(cow));
    const next = new Map(attached.map(({ origin, cow }) => [origin, { origin, cow, seen: false }]));
    if (next.size !== noted.length) this.#write(next);
    this.#waiting = next;
  }

  add(merges: readonly DeferredMerge[]): void {
    if (merges.length === 0) return;
    const next = new Map(this.#waiting);
    for (const { origin, cow } of merges) next.set(origin, { origin, cow, seen: false });
    this.#write(next);
    this.#waiting = next;
  }

  end(origins: Iterable<VolumeId>): void {
    const next = new Map(this.#waiting);
    const ended = [...origins].filter((origin) => next.delete(origin));
    if (ended.length === 0) return;
    this.#write(next);
    this.#waiting = next;
  }

  /** Forgets merges that were read groups have none of: taken back, or ended by somebody else. `pending`: origins of changes not made yet. */
  forget(groups: readonly VolumeGroup[], pending: ReadonlySet<VolumeId>): void {
    if (this.#waiting.size === 0) return;
    const gone: VolumeId[] = [];
    // Of a VG with missing PVs the newest metadata may be what is missing.
    for (const { vg, partial } of groups) {
      if (partial) continue;
      const merges = mergesOf(vg);
      for (const [origin, { cow }] of this.#waiting) {
        const known = pending.has(origin) || merges.some((merge) => merge.origin === origin && merge.cow === cow);
        if (groupOf(origin) === vg.id && !known) gone.push(origin);
      }
    }
    this.#endedNow(gone);
  }

  /** The merge into an origin, if it waits. */
  find(origin: VolumeId): DeferredMerge | null {
    return this.#waiting.get(origin) ?? null;
  }

  /** Whether the merge into an origin waits now. */
  waits(origin: VolumeId): boolean {
    const waiting = this.#waiting.get(origin);
    if (waiting === undefined) return false;
    if (this.#options.isServed(origin)) waiting.seen = true;
    else if (waiting.seen) {
      return !this.#endedNow([origin]);
    }
    return true;
  }

  /** False: their notes can't be taken away, and a restart would take a merge that has begun for one that waits. */
  #endedNow(origins: readonly VolumeId[]): boolean {
    try {
      this.end(origins);
      return true;
    } catch (error) {
      const { path, log } = this.#options;
      log.error({ path, reason: reasonOf(error) }, 'a merge cannot begin, as its note cannot be taken away');
      return false;
    }
  }

  #read(): readonly DeferredMerge[] {
    const { path, log } = this.#options;
    if (path === null) return [];
    try {
      const fd = openSync(path, READ_FLAGS);
      try {
        return NOTES.parse(JSON.parse(readFileSync(fd, 'utf8')));
      } finally {
        closeSync(fd);
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      log.error({ path, reason: reasonOf(error) }, 'which merges wait cannot be read');
      return [];
    }
  }

  /** Throws an error with the system's code: then the merge is not begun either, and nothing else has changed. */
  #write(waiting: ReadonlyMap<VolumeId, Waiting>): void {
    const { path } = this.#options;
    if (path === null) return;
    const notes = [...waiting.values()].map(({ origin, cow }) => ({ origin, cow }));
    if (notes.length === 0) {
      rmSync(path, { force: true });
      return;
    }
    mkdirSync(dirname(path), { recursive: true });
    const fd = openSync(`${path}.new`, WRITE_FLAGS, 0o600);
    try {
      writeFileSync(fd, JSON.stringify(notes), { flush: true });
    } finally {
      closeSync(fd);
    }
    renameSync(`${path}.new`, path);
  }
}
