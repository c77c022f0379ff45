/**
 * A volume: a block device made by a table, with device-mapper's verbs (load, suspend, resume, status, message, remove).
 *
 *     new ── load ──> inactive table ── resume ──> active ── suspend ──> suspended ── (load) resume ──> active
 *
 * Invariants
 *  - There is a live table (requests go through it) and an inactive one (loaded, checked, waiting for `resume`); each verb
 *    leaves both as they were when it throws.
 *  - The live table is replaced only while nothing is in flight in it and its devices have been flushed.
 *  - Requests that arrive while the volume is suspended wait and go through whatever table is live afterwards; none is lost,
 *    none is done twice.
 *  - The devices of the tables are not the volume's: it never closes them. The layers of its tables are: a layer is suspended after
 *    the line above it has nothing in flight, resumed before it, and let go with its table.
 */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import type { BlockDevice, DeviceLimits } from '../block/device.ts';
import type { ExtentList, StatusDone } from '../block/extents.ts';
import type { IoRequest } from '../block/request.ts';
import { TableError, VolumeError } from './errors.ts';
import type { FlatMap } from './flat-map.ts';
import type { IoStats } from './io-stats.ts';
import { enterRanges, leaveRanges, type LoadedLine, type LoadedTable } from './load.ts';
import { type LoadOptions, loadTable, NO_LIMITS } from './load.ts';
import { RequestMapper } from './request-mapper.ts';
import type { Table } from './table.ts';
import { SECTOR_BYTES, type Target, type TargetRegistry } from './target.ts';
import { unlessAborted } from './unless-aborted.ts';
import { lineStatuses, statusText, type VolumeState, type VolumeStatus } from './volume-status.ts';

export interface VolumeOptions {
  readonly targets: TargetRegistry;
  /** It belongs to a table of another volume, which suspends and resumes it. */
  readonly layer?: boolean;
}

/** What a table is loaded with, and the volume at the top of its layers. */
interface LoadingFrom extends Pick<LoadOptions<Volume>, 'resolve' | 'readOnly' | 'onlyRead'> {
  readonly root: Volume;
  /** Layers above. */
  readonly depth: number;
}

/** Layers under each other; deeper tables are no volume that anybody has. */
const MAX_DEPTH = 16;

export interface TableOptions {
  /** The table takes no writes, whatever its devices take. Default false; also so when one of them is read-only. */
  readonly readOnly?: boolean;
}

export class Volume implements BlockDevice {
  readonly name: string;
  readonly #targets: TargetRegistry;
  readonly #mapper: RequestMapper;
  #state: VolumeState = 'empty';
  #live: LoadedTable<Volume> | null = null;
  #inactive: LoadedTable<Volume> | null = null;
  #suspending: Promise<void> | null = null;
  /** The suspend in force has left what was written in the devices' caches. */
  #unflushed = false;
  /** Settles when what was dropped writes nothing any more. */
  #dropped: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | null = null;

  constructor(name: string, options: VolumeOptions) {
    this.name = name;
    this.#targets = options.targets;
    this.#mapper = new RequestMapper({ layer: options.layer ?? false });
  }

  /** Those of the live table; a volume without one has no bytes. */
  get limits(): DeviceLimits {
    return this.#live?.limits ?? NO_LIMITS;
  }

  get state(): VolumeState {
    return this.#state;
  }

  /** What was asked of it since it was made, whatever tables it had. */
  get stats(): IoStats {
    return this.#mapper.stats;
  }

  /** Pooled requests of the data path in use: 0 when nothing is in flight or waiting. */
  get outstanding(): number {
    return this.#mapper.outstanding;
  }

  /** Where the live table sends requests; null: there is none. */
  get map(): FlatMap | null {
    return this.#live?.map ?? null;
  }

  /** Takes any byte range. A range past the end (the volume may have shrunk) fails with EIO, a write to a read-only one with EROFS. */
  submit(request: IoRequest): void {
    assert(this.#state !== 'closed', 'submitted to a closed volume');
    this.#mapper.submit(request);
  }

  /** Of the live table. */
  zeroRun(offset: number, length: number): number {
    return this.#live?.map.zeroRun(offset, length) ?? -length;
  }

  /** Of the live table. */
  zeroesFast(offset: number, length: number, flags: number): boolean {
    return this.#live?.map.zeroesFast(offset, length, flags) ?? false;
  }

  /** As for requests: waits while the volume is suspended; a range past the end is EIO. */
  blockStatus(offset: number, length: number, extents: ExtentList, done: StatusDone): void {
    assert(this.#state !== 'closed', 'a question to a closed volume');
    this.#mapper.blockStatus({ offset, length, extents, done });
  }

  /**
   * Which bytes of a range may differ (flag 1) from what a snapshot of the same origin has, by its id; as `blockStatus` otherwise. Fails
   * with ENOENT if it is none, EIO if it is invalid, ENOTSUP if this volume has to do with no snapshots.
   */
  changedSince(since: string, offset: number, length: number, extents: ExtentList, done: StatusDone): void {
    assert(this.#state !== 'closed', 'a question to a closed volume');
    const answer = (from: number, end: number): Promise<number> => this.#changes(since, from, end, extents);
    this.#mapper.blockStatus({ offset, length, extents, done, answer });
  }

  #changes(since: string, offset: number, end: number, extents: ExtentList): Promise<number> {
    const sector = Math.floor(offset / SECTOR_BYTES);
    const line = this.#live?.lines.find(({ start, length }) => sector >= start && sector < start + length);
    if (line?.target.changes === undefined) return Promise.resolve(constants.errno.ENOTSUP);
    const start = line.start * SECTOR_BYTES;
    const last = Math.min(end, start + line.length * SECTOR_BYTES);
    return line.target.changes(since, { offset: offset - start, end: last - start }, extents);
  }

  /**
   * Checks a table and puts it into the inactive slot, replacing what was there. `resolve` gives the devices that it names.
   * Throws TableError.
   */
  load(table: Table, resolve: (deviceName: string) => BlockDevice, options: TableOptions = {}): void {
    this.#refuseClosed();
    const { readOnly = false } = options;
    this.#inactive = this.#checked(table, { resolve, readOnly, onlyRead: false, root: this, depth: 0 });
  }

  #checked(table: Table, from: LoadingFrom): LoadedTable<Volume> {
    const { resolve, root, depth } = from;
    const makeLayer: LoadOptions<Volume>['makeLayer'] = (layer, place, onlyRead) => {
      if (depth === MAX_DEPTH) {
        throw new TableError('RECURSION', place, '', `more than ${MAX_DEPTH} layers under each other`);
      }
      const volume = new Volume(layer.name, { targets: this.#targets, layer: true });
      const loaded = volume.#checked(layer.table, { resolve, readOnly: false, onlyRead, root, depth: depth + 1 });
      volume.#inactive = loaded;
      return { volume, sizeBytes: loaded.limits.sizeBytes };
    };
    const loaded = loadTable(table, { ...from, volume: this, targets: this.#targets, makeLayer });
    enterRanges(loaded);
    return loaded;
  }

  /** Lets the targets of the inactive table get ready, so that `resume` takes no time. Only for a volume that is made now. */
  async prepare(): Promise<void> {
    const next = this.#inactive;
    if (this.#state !== 'empty' || next === null) return;
    for (const layer of next.layers) {
      await layer.prepare();
      layer.resume();
    }
    for (const { target } of next.lines) await target.prepare?.();
  }

  /** Drops the inactive table. Settles when nothing that it got ready is written any more: its extents may be somebody else's then. */
  async clear(): Promise<void> {
    const prepared = (this.#inactive?.layers ?? []).filter(({ state }) => state !== 'empty');
    this.#inactive = null;
    // What could not be written was for a table that never served anybody.
    this.#dropped = Promise.allSettled([this.#dropped, ...prepared.map((layer) => layer.close())]);
    await this.#dropped;
  }

  /**
   * Holds new requests back and settles when all others have ended and everything written is flushed. An abort takes the
   * suspend back. A flush that fails doesn't keep the volume from being suspended (a broken device can only be replaced
   * that way): the next flush of a user reports it.
   *
   * Without `flushes`, what was written stays in the devices' caches: only where the next table is over the same ranges, whose flushes
   * then cover it, and whoever promises that it is durable calls `flush`. If they turn out to be others', a second suspend hands it on.
   */
  async suspend(signal?: AbortSignal, flushes = true): Promise<void> {
    this.#refuseClosed();
    const table = this.#live;
    const again = this.#state === 'suspended' && this.#unflushed && flushes;
    if ((this.#state !== 'active' && !again) || table === null) {
      throw new VolumeError('NOT_ACTIVE', this.name, `can't be suspended: it is ${this.#state}`);
    }
    this.#suspending = this.#quiesce(table, signal, flushes);
    await this.#suspending;
  }

  async #quiesce(table: LoadedTable<Volume>, signal: AbortSignal | undefined, flushes: boolean): Promise<void> {
    this.#state = 'suspending';
    this.#mapper.pause();
    this.#presuspend(table);
    this.#wakeLayers();
    const quieted = new Set<Target>();
    try {
      await this.#unlessAborted(this.#mapper.drained(), signal);
      for (const { target } of table.lines) {
        quieted.add(target);
        if (target.suspend !== undefined) await this.#unlessAborted(target.suspend(), signal);
      }
      if (flushes && !table.onlyRead) {
        await this.#unlessAborted(this.#ownFlush(), signal);
        await this.#unlessAborted(this.#mapper.loseWith(leaveRanges(table)), signal);
      }
      for (const layer of table.layers) {
        await layer.suspend(signal, flushes);
        this.#mapper.loseFlushes(layer.#mapper.lostFlushes);
        this.#refuseClosed();
      }
      this.#unflushed = !flushes;
      this.#state = 'suspended';
    } catch (error) {
      if (this.#closing === null) {
        this.#unquiet(table, quieted);
        this.#goOn(table);
      }
      throw error;
    }
  }

  /** Requests that targets keep until somebody reacts come back, to wait for `resume`. */
  #presuspend(table: LoadedTable<Volume> | null): void {
    for (const { target } of table?.lines ?? []) target.presuspend?.();
    for (const layer of table?.layers ?? []) layer.#presuspend(layer.#live);
  }

  /** Takes back what a suspend has done so far. */
  #unquiet(table: LoadedTable<Volume> | null, quieted: ReadonlySet<Target>): void {
    for (const layer of table?.layers ?? []) {
      if (layer.#state === 'suspended') layer.resume();
      else layer.#unquiet(layer.#live, new Set());
    }
    for (const { target } of table?.lines ?? []) {
      if (quieted.has(target) || target.presuspend !== undefined) target.resume?.();
    }
  }

  /** Makes the inactive table, if there is one, the live table, and lets requests go on. */
  resume(): void {
    this.#refuseClosed();
    const next = this.#inactive ?? this.#live;
    if (next === null) throw new VolumeError('NO_TABLE', this.name, "can't be resumed: no table is loaded");
    if (this.#state === 'active' && next === this.#live) return;
    if (this.#state === 'active' || this.#state === 'suspending') {
      throw new VolumeError('NOT_SUSPENDED', this.name, `can't be resumed: it is ${this.#state}, suspend it first`);
    }
    if (next !== this.#live) this.#letGo();
    this.#inactive = null;
    this.#live = next;
    enterRanges(next);
    for (const layer of next.layers) layer.resume();
    for (const { target } of next.lines) target.resume?.();
    this.#goOn(next);
  }

  /** Ends the targets of a suspended volume, and its layers: all of them are quiet, and what they wrote is flushed. */
  #letGo(): void {
    for (const { target } of this.#live?.lines ?? []) target.close?.();
    for (const layer of this.#live?.layers ?? []) {
      layer.#letGo();
      layer.#mapper.close();
      layer.#state = 'closed';
    }
  }

  /**
   * Sends words to the target at a sector of the live table, as `dmsetup message` does. One that takes none passes them on to every
   * target in its layers that does.
   */
  async message(sector: number, words: readonly string[]): Promise<string> {
    this.#refuseClosed();
    const line = this.#live?.lines.find(({ start, length }) => sector >= start && sector < start + length);
    if (line === undefined) throw new VolumeError('NO_SUCH_SECTOR', this.name, `no target at sector ${sector}`);
    const takers = takersIn(line);
    if (takers.length === 0) {
      throw new VolumeError('NO_MESSAGES', this.name, `targets of type ${line.type} take no messages`);
    }
    const answers = await Promise.all(takers.map((take) => take(words)));
    return answers.filter((answer) => answer !== '').join('\n');

    function takersIn({
      target,
      layers,
    }: LoadedLine<Volume>): readonly ((words: readonly string[]) => Promise<string>)[] {
      if (target.message !== undefined) return [(text) => target.message?.(text) ?? Promise.resolve('')];
      return layers.flatMap((layer) => (layer.#live?.lines ?? []).flatMap(takersIn));
    }
  }

  status(): VolumeStatus {
    return {
      name: this.name,
      state: this.#state,
      readOnly: this.limits.readOnly,
      sizeBytes: this.limits.sizeBytes,
      hasInactiveTable: this.#inactive !== null,
      inFlight: this.#mapper.inFlight,
      waiting: this.#mapper.waiting,
      lines: this.#live === null ? [] : lineStatuses(this.#live),
    };
  }

  /** One line per target, as `dmsetup status` prints them: `<start> <length> <target> <status>`. */
  statusText(): string {
    return statusText(this.status());
  }

  /** The live or the inactive table as it was loaded; null when there is none. */
  table(slot: 'live' | 'inactive' = 'live'): Table | null {
    return this.#slot(slot)?.table ?? null;
  }

  /** The same as `dmsetup table` prints it, devices by name: `<start> <length> <target> <params>`. */
  tableText(slot: 'live' | 'inactive' = 'live'): string {
    const lines = this.#slot(slot)?.lines ?? [];
    return lines
      .map(({ start, length, type, target }) => `${start} ${length} ${type} ${target.tableText()}\n`)
      .join('');
  }

  /** The devices that the tables are made of. */
  dependencies(): Iterable<BlockDevice> {
    return new Set([...(this.#live?.devices ?? []), ...(this.#inactive?.devices ?? [])]);
  }

  /** Waits for what is in flight, flushes, and lets the targets go. What waits for `resume` fails with EIO. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const before = this.#state;
    this.#state = 'closed';
    const dropped = this.clear();
    if (this.#suspending !== null) await Promise.allSettled([this.#suspending]);
    // What waits for a resume that won't come; without a suspend only what targets keep waits, and what is in flight runs to its end.
    this.#mapper.failWaiting(constants.errno.EIO);
    this.#mapper.failGivenBack();
    this.#presuspend(this.#live);
    await this.#mapper.drained();
    const isDone = before === 'suspended' && !this.#unflushed;
    const errno = isDone ? this.#mapper.takeFlushError() : await this.#quiesceForEver();
    const { lines = [], layers = [] } = this.#live ?? {};
    for (const { target } of lines) target.close?.();
    this.#mapper.close();
    await dropped;
    const below = await Promise.allSettled(layers.map((layer) => layer.close()));
    for (const outcome of below) if (outcome.status === 'rejected') throw outcome.reason;
    if (errno !== 0)
      throw new VolumeError('FLUSH_FAILED', this.name, `the flush before closing failed: errno ${errno}`);
  }

  /** Stops the targets and flushes; gives 0 or the first errno. */
  async #quiesceForEver(): Promise<number> {
    const table = this.#live;
    if (table === null) return this.#mapper.takeFlushError();
    this.#wakeLayers();
    for (const { target } of table.lines) await target.suspend?.();
    if (table.onlyRead) return 0;
    const errno = await this.#mapper.flush();
    // What could not be written must not be tried again when the ranges are others'.
    return (await leaveRanges(table)) || errno;
  }

  /** Why every flush fails: what was written is lost; 0: it is not. */
  get lostFlushes(): number {
    return this.#mapper.lostFlushes;
  }

  /** A suspend that was given up may have got as far as a layer, and one that did not flush has: it would hold the flush back. */
  #wakeLayers(): void {
    for (const layer of this.#live?.layers ?? []) if (layer.state === 'suspended') layer.resume();
  }

  /** Makes durable what has been written, while requests go on; its error is for the next flush of a user. Only while active. */
  async flush(signal?: AbortSignal): Promise<void> {
    await this.#unlessAborted(this.#ownFlush(), signal);
  }

  /** A flush whose error is not lost, even when nobody waits for it any more. */
  async #ownFlush(): Promise<void> {
    // An error that waits for a user's flush is still his.
    const unreported = this.#mapper.takeFlushError();
    const flushed = this.#mapper.flush();
    this.#mapper.reportFlushErrorLater(unreported);
    const errno = await flushed;
    if (errno !== 0) this.#mapper.reportFlushErrorLater(errno);
  }

  #goOn(table: LoadedTable<Volume>): void {
    this.#state = 'active';
    this.#mapper.proceed(table.map, table.limits.readOnly);
  }

  #slot(slot: 'live' | 'inactive'): LoadedTable<Volume> | null {
    return slot === 'live' ? this.#live : this.#inactive;
  }

  #refuseClosed(): void {
    if (this.#state === 'closed') throw new VolumeError('CLOSED', this.name, 'the volume is closed');
  }

  /** The promise's value; rejects when the signal aborts first or the volume was closed meanwhile. */
  async #unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    const reason = (cause: unknown): VolumeError =>
      new VolumeError('SUSPEND_ABORTED', this.name, 'the suspend was aborted', { cause });
    const value = await unlessAborted(promise, signal, reason);
    this.#refuseClosed();
    return value;
  }
}
